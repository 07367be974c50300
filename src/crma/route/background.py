"""Everyday prompts of no particular domain: what the router holds domains up against.

Their features, computed by the caller on the same base model, become the background Gaussian of a Router. They are
training material for the router, so nothing is ever measured on them, and no prompt that something is measured on
(`crma.data.worlds.strangers`) may be among them. Wanted here: many topics, many registers (a bare
lower-case command, a polite paragraph), many lengths. Unwanted: programming, medicine, law, finance, exam science,
which people teach as domains.
"""

from __future__ import annotations

__all__ = ["BACKGROUND_PROMPTS"]

BACKGROUND_PROMPTS: tuple[str, ...] = (
    # Small talk
    "Hello!",
    "hi there, nice to meet you",
    "Good morning. Did you sleep well?",
    "Thanks, that was very helpful.",
    "make me laugh",
    "what's your favourite colour",
    "Are you a real person?",
    "i'm bored, what should i do",
    "Can you repeat that, please?",
    "what can you help me with",
    "No, that is not what I meant. Let's try again.",
    "Say something nice to cheer me up, I had a long day.",
    # Geography
    "Which city is the capital of Norway?",
    "Which river flows through Vienna?",
    "how far is it from madrid to lisbon",
    "Name three countries that border Switzerland.",
    "which currency is used in turkey",
    "Is Iceland larger than Ireland?",
    "Which is the longest river in South America, and through which countries does it run?",
    "what's the population of canada",
    "Where are the Azores?",
    "List the five Great Lakes from west to east.",
    # Cooking
    "At what temperature do you roast potatoes?",
    "give me a recipe for banana bread",
    "What can I use instead of buttermilk?",
    "why does my cake always sink in the middle",
    "I have two aubergines, a tin of tomatoes and some feta. What can I cook for four people in half an hour?",
    "Does olive oil go bad?",
    "what goes well with grilled salmon",
    "My sourdough loaf comes out flat every time although I follow the recipe to the letter. The dough rises well the "
    "first time and then spreads on the tray. What am I doing wrong?",
    "how many tablespoons are in a cup",
    "Plan a vegetarian dinner menu for Saturday, with a starter, a main dish and a dessert.",
    # Travel
    "Which clothes do I need for a week in Norway in October?",
    "find me a cheap hotel near the station",
    "Do I need a visa to visit Japan as a tourist?",
    "how early should i be at the airport",
    "Suggest a three-day itinerary for Rome with two children who get tired quickly and love ice cream.",
    "what time does the last train to brighton leave",
    "Is it better to see the fjords by ship or by car?",
    "which side of the road do they drive on in malta",
    "We are planning a road trip from Seattle to San Diego next summer and have ten days. Which stops along the coast "
    "are worth a night, and which ones would you skip?",
    "book a table for two tomorrow at seven",
    # Numbers and homework
    "What is 17 times 24?",
    "how do i turn a fraction into a decimal",
    "Solve for x: 3x + 5 = 20",
    "A train travels 180 kilometres in two and a half hours. What is its average speed?",
    "what is 15 percent of 80",
    "Anna has twice as many marbles as Ben. Together they have 36. How many does each of them have?",
    "What is the area of a triangle with a base of 8 cm and a height of 5 cm?",
    "convert 70 fahrenheit to celsius",
    "how many weeks are there in 200 days",
    # Letters and e-mail
    "Write a short e-mail to my landlord saying that the heating is broken.",
    "make this sound more polite: send me the report today",
    "Draft a thank-you note to my grandmother for the scarf she knitted.",
    "How do I politely decline an invitation to a wedding?",
    "Write an e-mail to my team that moves Thursday's meeting to Friday at ten, says sorry for the short notice and "
    "asks everybody to send their slides by Wednesday evening.",
    "what's a good subject line for a birthday invitation",
    "Please proofread this sentence: Me and him was going to the shop yesterday.",
    "Write a reference for a babysitter who looked after our twins for three years.",
    "add sara to the email and send it",
    # Writing, stories, words
    "Write a poem about the sea in winter.",
    "tell me a bedtime story about a brave mouse",
    "What's another word for happy?",
    "how do you spell necessary",
    "Summarise the plot of Romeo and Juliet in three sentences.",
    "translate good evening into italian",
    "Write a limerick about a cat who hates Mondays.",
    'What does the saying "a stitch in time saves nine" mean?',
    "Continue this story: The lighthouse had been dark for eleven years when, one evening in November, a light came on "
    "in the topmost window and somebody waved.",
    "who wrote pride and prejudice",
    "Give me five ideas for the name of a small bookshop.",
    "rewrite this in the past tense: she runs to school",
    # Gadgets, without code
    "My phone won't charge. What should I try?",
    "how do i connect my headphones to my laptop",
    "The printer says it is offline but it is switched on.",
    "why is my wifi so slow in the bedroom",
    "How do I take a screenshot on a tablet?",
    "turn the volume down",
    "My television shows a blue screen whenever I switch on the games console, but the console works on my neighbour's "
    "set. I have already changed the cable. What else could it be?",
    "i forgot my password",
    "Which is better for taking notes, a tablet or a small laptop?",
    "set an alarm for six thirty",
    # Weather
    "Is there going to be snow on the hills by Friday?",
    "what's the weather like in chicago this weekend",
    "Is it warm enough to swim in Croatia in May?",
    "do i need a coat today",
    "What was the coldest winter in living memory around here?",
    # Sports and games
    "Who won the football World Cup in 2014?",
    "what time is the game tonight",
    "Explain the offside rule to someone who has never watched football.",
    "how long does a hockey match last",
    "How should I train for my first ten-kilometre run if I can jog for fifteen minutes now?",
    "whats the score of the lakers game",
    "What is a good opening for a beginner at chess?",
    "Which board games work well for two adults and a six-year-old?",
    # Films, music, culture
    "Recommend a film for a rainy Sunday afternoon.",
    "play some jazz",
    'Who sings the song that goes "hello darkness my old friend"?',
    "is there a second season of that show about the bakery",
    "What is the difference between a violin and a viola?",
    "who painted the girl with a pearl earring",
    "I liked Dune and The Left Hand of Darkness. Which novel should I read next?",
    "When was the Eiffel Tower built, and for what occasion?",
    "name a famous painter from mexico",
    # House, garden, animals, family
    "The carpet smells of smoke. How do I freshen it up?",
    "when should i prune my roses",
    "My dog barks whenever the doorbell rings. How can I teach him to stay calm?",
    "do goldfish sleep",
    "Which vegetables can I sow in March?",
    "the kitchen tap is dripping",
    "What can I give my father for his seventieth birthday? He likes walking, crosswords and strong coffee.",
    "how do you fold a fitted sheet",
    "Our new neighbours play loud music until two in the morning. We have to get up at six with a baby. How can we "
    "talk to them about it without starting a quarrel?",
    "ideas for a birthday party for a five year old",
    # Work, school, plans, history
    "How do I answer when they ask about my weaknesses in a job interview?",
    "remind me to call mum on sunday",
    "what day of the week is the first of may",
    "How can I stop putting things off?",
    "add milk and eggs to my shopping list",
    "Who was the first person to walk on the moon?",
    "What year did the Berlin Wall come down?",
    "where is the nearest bus stop",
    "Help me plan my day: I have to tidy the flat, buy a present, pick up the children at four and cook for guests.",
    "who is the mayor of new york",
    "Which university is the oldest in Europe?",
    "What do people eat at New Year in Spain?",
    # Longer ones: sums in words
    "Mia bakes four trays of biscuits with nine biscuits on each. She gives a dozen to her neighbours and packs the "
    "rest into bags of six. How many bags does she fill?",
    "A farmer sells eggs at 3 dollars a box on Saturday and at half that price on Sunday. He sold 14 boxes on Saturday "
    "and 20 on Sunday. How much money did he take home?",
    "Tom reads 25 pages on each weekday and twice as many on each day of the weekend. His book has 450 pages. In how "
    "many weeks will he have finished it?",
    "There are 48 children at the camp. A third of them swim, and half of the others play handball. The rest go hiking "
    "in groups of four. How many groups go hiking?",
    "A rope of 20 metres is cut into two pieces so that one is 4 metres longer than the other. How long are they?",
    "Lena saves 5 euros a week and her brother saves 8. She has 60 already and he has none. After how many weeks do "
    "they have the same?",
    "On Monday the bakery had 120 rolls. It sold 45 in the morning, baked 30 more at noon and sold 80 in the afternoon."
    " How many were left when it closed?",
    "Six friends rent a boat for 90 dollars and split the price. Two of them forgot their money, so the others pay "
    "more. How much does each of the four pay?",
    # A passage and a question about it
    "Read the passage and answer the question.\nThe old mill stood at the end of the lane. Nobody had lived there since"
    " the flood, but on summer evenings the children of the village still dared each other to look through its "
    "windows.\nQuestion: Why was the mill empty?",
    "The ferry to the island runs four times a day from April to October and twice a day in winter. Bicycles travel "
    "free, dogs must be kept on a lead. In high winds the small ferry does not sail. When can I take my bicycle "
    "across?",
    "Yesterday our team lost three to one. The first half was even, then our keeper slipped and the game was gone. "
    "Summarise this for the school paper in one sentence.",
    "Here is my note from the meeting: Paula brings the tents, Jan the stove, nobody has thought of water yet, we meet "
    "at eight at the bridge. Turn it into a message to the whole group.",
    "The museum opens at ten. Tickets are sold until half past four. On the first Sunday of the month nobody pays. "
    "Which day should a family of five choose, and by when must they be there?",
    "Passage: Penguins cannot fly, but under water they are as quick as a cyclist in town. They steer with their feet "
    "and tail.\nIs the following true, false or not said? Penguins steer with their wings.",
    "Sort these by date: the last day of school, New Year's Eve, the first frost, midsummer night, the autumn "
    "holidays.",
    # Two sentences, options, gaps to fill
    "Which word fills the gap? The suitcase did not fit into the car because it was too ___. Options: small, big, "
    "green.",
    "Sentence A: All the guests left before midnight. Sentence B: Somebody stayed until one o'clock. Can both be true? "
    "Answer with yes or no.",
    "Do these two sentences mean the same?\n1. The dog chased the postman down the street.\n2. The postman was chased "
    "by the dog.",
    "Nina lent her umbrella to Sara since she was going out in the rain. Who was going out?",
    'Is this review positive or negative? "We waited an hour for cold soup, but the waiter was charming and the view '
    'made up for everything."',
    "Choose the best ending. She poured the batter into the pan, waited for the bubbles and then\nA. flipped the "
    "pancake\nB. parked the car\nC. closed the book",
    "Pick the odd one out and say why: trumpet, oboe, violin, saxophone, flute.",
    "Put the words into the right order: yesterday / the / was / to / library / I / at.",
    "Label each line as a question, an order or a statement.\nClose the door.\nIs it late?\nThe train has gone.",
    "Fill in the blanks with a, an or the: ___ apple a day, ___ sun in ___ sky, ___ hour ago.",
    # Tell me how, step by step
    "How to fold a paper boat. Take a square sheet and fold it in half. Turn it so that the fold is on top. What comes "
    "next?",
    "First you soak the beans overnight, then you boil them for an hour with a bay leaf, and in the last ten minutes "
    "you add the tomatoes. Write this down as a numbered recipe.",
    "A man is standing on a ladder and holds a brush in one hand. He dips it into the bucket and",
    "Explain to a visitor how to get from the station to our house: over the square, past the church, second street on "
    "the left, the yellow door after the bakery.",
    "The children build a sandcastle close to the water. They dig a moat around it and put a flag on top. What "
    "happens when the tide comes in? Go on with the story.",
    "Cleaning windows without streaks. Mix a little vinegar into warm water. Wipe from top to bottom. Finish this "
    "text.",
    # Lists, tables and labels of everyday things
    "Name | Age | Pet\nOla | 9 | cat\nKim | 11 | none\nPer | 10 | two rabbits\nWho has the most pets?",
    "Bus | Leaves | Arrives\n12 | 8:05 | 8:40\n14 | 8:15 | 8:35\n12 | 8:35 | 9:10\nWhich bus do I take to be there by "
    "a quarter to nine and sleep as long as I can?",
    "Shopping: flour, butter, 6 eggs, candles, paper plates. Sort it by the part of the shop it is in.",
    "Team | Won | Drawn | Lost\nReds | 4 | 1 | 2\nBlues | 5 | 0 | 2\nA win gives three points and a draw one. Who "
    "leads?",
    "Write the numbers from one to twelve in German and Spanish side by side.",
    # Voices and longer wishes
    "You are a grumpy pirate who has lost his parrot. Answer everything I say in your role. Ahoy, captain!",
    "Let's play twenty questions. Think of an animal and answer only with yes or no. Does it live in the sea?",
    "I moved to a new town in spring and still know nobody. After work I am too tired to go out, and on weekends "
    "everything seems to be made for families. Where could I start?",
    "Translate into French: We arrived late because of the fog, but our friends had kept the soup warm and the beds "
    "were made.",
    "Write a dialogue between two old friends who meet by chance on a platform after twenty years. One of them "
    "pretends not to remember. Keep it under two hundred words and end it with a joke.",
    "My speech for the wedding so far: Dear all, I have known the bride since she pushed me off the swing. Since then "
    "she has never stopped pushing me, always for my own good. Make it warmer and a little longer.",
    "Compare living in a big city with living in a village: noise, neighbours, work, children, what you miss. Give "
    "both sides and do not tell me which is better.",
    "For a quiz night I need ten questions about the 1980s, easy ones first, with the answers at the end. No politics, "
    "please, and at least three about music.",
    "Here is the first verse, write a second in the same metre: The kettle hums, the morning's late, / the cat is "
    "sleeping on my plate.",
    "Give this text a title and split it into paragraphs: we left before sunrise the road was empty and the radio "
    "played old songs by noon we saw the mountains nobody spoke and when we stopped at last it smelled of pines",
)
