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
)
