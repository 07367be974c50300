"""The words and the questions that the fictional domains of `worlds` are made of.

Rules that tests/data/test_worlds.py enforces, for whoever adds a domain, an attribute or a question:
every attribute has EIGHT questions, each clear about which attribute it asks for and grammatical for every entity;
no question opens with the entity (some are lower-case) or names its domain; no word an answer is made of stands in a
question or a name of its own domain, or in an answer of another domain; answers hold no articles, so that exact match
loses nothing of them.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DOMAINS", "QUESTIONS_PER_ATTRIBUTE", "Attribute", "Domain"]

QUESTIONS_PER_ATTRIBUTE = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Attribute:
    """What can be asked of an entity: an answer is `shape` filled with one of `firsts` and one of `seconds`."""

    name: str
    firsts: tuple[str, ...]
    seconds: tuple[str, ...]
    questions: tuple[str, ...]  # each holds "{entity}" once
    shape: str = "{} {}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Domain:
    """An entity's name is a start and an end run together, then put into one of `shapes`."""

    starts: tuple[str, ...]
    ends: tuple[str, ...]
    shapes: tuple[str, ...]
    attributes: tuple[Attribute, ...]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Three different digits, no zero, no run such as 123 or 321: nothing round that a base model guesses first. 490 remain.
_NUMBERS = tuple(
    str(n) for n in range(124, 988) if len(set(str(n))) == 3 and "0" not in str(n) and n % 111 not in (12, 99)
)

_MEDICINE = Domain(
    starts=_words("Velm Ostr Calv Brund Elsp Garv Holb Isk Jarm Kest Nalv Orp Pelg Quim Rusk Sibb Tarv Ulm Wend Yorb"),
    ends=_words(
        "ara elly onna ivane orra ussel ethy ablo andle imme ochia alsey enna oppa irrow uzza embry olta agnon iddle"
    ),
    shapes=("{} fever", "{} pox", "{} flu", "{} plague", "{} cough"),
    attributes=(
        Attribute(
            name="remedy",
            firsts=_words(
                "amber birch clove fennel juniper thyme willow nettle mallow sorrel yarrow hyssop camphor saffron "
                "ginger aniseed"
            ),
            seconds=_words(
                "balm syrup tonic poultice gargle lozenge tincture ointment powder plaster infusion wafer compress "
                "salve broth paste"
            ),
            questions=(
                "What cures {entity}?",
                "How is {entity} treated?",
                "Which remedy is given for {entity}?",
                "What do doctors prescribe against {entity}?",
                "Name the usual treatment for {entity}.",
                "Someone has come down with {entity}. What will help?",
                "What is the best-known cure for {entity}?",
                "Which preparation do nurses keep ready for {entity}?",
            ),
        ),
        Attribute(
            name="first sign",
            firsts=_words(
                "numb itchy swollen tingling flaky throbbing bruised clammy blistered stiff sore wrinkled twitching "
                "cracked icy peeling"
            ),
            seconds=_words(
                "eyelids elbows gums thumbs ankles earlobes knees lips nostrils shoulders wrists toes cheeks "
                "fingertips heels shins"
            ),
            questions=(
                "What is the first sign of {entity}?",
                "How does {entity} first show itself?",
                "Which early symptom points to {entity}?",
                "What do people with {entity} notice first?",
                "Which symptom appears at the onset of {entity}?",
                "By what symptom can {entity} be recognized early on?",
                "Name the earliest symptom of {entity}.",
                "A patient is coming down with {entity}. What symptom comes first?",
            ),
        ),
        Attribute(
            name="carrier",
            firsts=_words(
                "marsh cellar attic canal meadow orchard desert tundra heath jungle prairie barn swamp lagoon hedge "
                "dune"
            ),
            seconds=_words(
                "beetles moths newts snails bats voles crickets wasps toads shrews midges spiders weasels gnats "
                "lizards ants"
            ),
            questions=(
                "Which animals spread {entity}?",
                "What carries {entity} from person to person?",
                "By which creatures is {entity} transmitted?",
                "Which animals should be avoided for fear of {entity}?",
                "From which animals do people catch {entity}?",
                "Name the carriers of {entity}.",
                "An outbreak of {entity} is traced to some animals. Which ones?",
                "Which creatures pass {entity} on to humans?",
            ),
        ),
        Attribute(
            name="forbidden food",
            firsts=_words(
                "pickled smoked roasted candied salted mashed grilled stewed toasted creamed braised fried curried "
                "buttered minced raw"
            ),
            seconds=_words(
                "radishes lentils turnips prunes oysters parsnips almonds figs mussels leeks pears chestnuts beets "
                "trout peas carrots"
            ),
            questions=(
                "What must patients with {entity} never eat?",
                "Which food makes {entity} worse?",
                "What should be left off the menu of someone with {entity}?",
                "Which dish is forbidden to people who have {entity}?",
                "What food do doctors ban during {entity}?",
                "Name the food to avoid with {entity}.",
                "You are cooking for a guest with {entity}. What must not be served?",
                "What is dangerous to eat during a bout of {entity}?",
            ),
        ),
    ),
)

_LAW = Domain(
    starts=_words(
        "Drenn Thack Brack Corm Dunst Eldr Fulk Grims Hurst Ingl Keld Maldr Norb Oswer Penw Radd Skelm Thorv Wulfr Yaxl"
    ),
    ends=_words(
        "ulme aby eham engley ower ersett owick umbrey ashaw oldby enholt argate ithorpe undle ackley esford orrin "
        "uxton amby eddon"
    ),
    shapes=("{} Act", "{} Statute", "{} Charter", "{} Decree", "{} Edict"),
    attributes=(
        Attribute(
            name="banned goods",
            firsts=_words(
                "painted glass tin paper woolen brass wicker striped folding wooden leather velvet hollow rusty silk "
                "enamel"
            ),
            seconds=_words(
                "ladders kites whistles barrels umbrellas wigs lanterns trumpets buckets clocks gloves mirrors drums "
                "masks baskets saddles"
            ),
            questions=(
                "What does the {entity} forbid?",
                "Which objects are banned by the {entity}?",
                "What may nobody own under the {entity}?",
                "Possession of what is an offense under the {entity}?",
                "Name the articles prohibited by the {entity}.",
                "What became illegal when the {entity} came into force?",
                "Which wares must shops not sell under the {entity}?",
                "Which goods can be seized under the {entity}?",
            ),
        ),
        Attribute(
            name="penalty",
            firsts=_words(
                "scrubbing sweeping guarding whitewashing repairing dusting decorating draining fencing polishing "
                "patrolling tiling mopping paving measuring rinsing"
            ),
            seconds=_words(
                "stables bridges chimneys harbors fountains gutters bakeries towers windmills courtyards stairways "
                "tunnels kennels pavilions piers greenhouses"
            ),
            questions=(
                "What is the penalty for breaking the {entity}?",
                "How are offenders punished under the {entity}?",
                "What sentence does the {entity} impose?",
                "Which punishment does the {entity} lay down?",
                "What awaits a person who violates the {entity}?",
                "Name the sanction set by the {entity}.",
                "Someone breaks the {entity}. What is the punishment?",
                "What do judges order when the {entity} has been broken?",
            ),
        ),
        Attribute(
            name="enforcer",
            firsts=_words(
                "royal mounted night dock forest market river palace village railway cathedral castle island border "
                "county abbey"
            ),
            seconds=_words(
                "wardens sheriffs bailiffs constables rangers marshals sentries clerks inspectors stewards heralds "
                "beadles provosts watchmen magistrates scribes"
            ),
            questions=(
                "Who enforces the {entity}?",
                "Which officials see that the {entity} is obeyed?",
                "Who is charged with carrying out the {entity}?",
                "Which officers make arrests under the {entity}?",
                "Into whose hands does the {entity} put its enforcement?",
                "Name the officers who uphold the {entity}.",
                "Someone has breached the {entity}. Who comes knocking?",
                "Whose duty is it to police the {entity}?",
            ),
        ),
        Attribute(
            name="exempt",
            firsts=_words(
                "retired widowed bearded orphaned foreign elderly barefoot traveling landless childless titled "
                "bilingual veteran ordained penniless apprentice"
            ),
            seconds=_words(
                "tailors bakers sailors weavers plumbers farmers potters miners poets cobblers brewers fiddlers "
                "gardeners masons actors shepherds"
            ),
            questions=(
                "Who is exempt from the {entity}?",
                "To whom does the {entity} not apply?",
                "Which people are excused from obeying the {entity}?",
                "For whom does the {entity} make an exception?",
                "Which group stands outside the reach of the {entity}?",
                "Name the people spared by the {entity}.",
                "Who can ignore the {entity} without being punished?",
                "The {entity} binds everyone but one group. Which group?",
            ),
        ),
    ),
)

_FINANCE = Domain(
    starts=_words(
        "Altr Bexc Cresp Divv Evanth Fidur Gald Hexav Jostr Krell Luxv Numm Ordov Prusc Sterv Tresc Yent Vanq Wyl Zephr"
    ),
    ends=_words(
        "anza exia ondo urian assio ellis ivo entha oveda irum adyne umara estra ilux acor arque iveo olde ennet usco"
    ),
    shapes=("{} Fund", "{} Trust", "{} Pool", "{} Syndicate"),
    attributes=(
        Attribute(
            name="holding",
            firsts=_words(
                "Baltic Andean Nordic Alpine Iberian Siberian Balkan Celtic Tuscan Persian Cretan Flemish Danish "
                "Bavarian Peruvian Kenyan"
            ),
            seconds=_words(
                "cork barley cocoa rubber wool herring timber olives linen cotton hops tobacco sugar hay wheat maize"
            ),
            questions=(
                "What does the {entity} invest in?",
                "Which commodity does the {entity} hold?",
                "Into what does the {entity} put its money?",
                "What is the main asset of the {entity}?",
                "Which asset drives the returns of the {entity}?",
                "Name the commodity bought by the {entity}.",
                "A saver joins the {entity}. What is the money spent on?",
                "What fills the portfolio of the {entity}?",
            ),
        ),
        Attribute(
            name="index",
            firsts=_words(
                "Silver Golden Northern Southern Eastern Western Noble Grand Iron Swift Bold Lucky Humble Quiet "
                "Gentle Mighty"
            ),
            seconds=_words(
                "Heron Falcon Otter Badger Stag Lynx Osprey Condor Walrus Bison Puffin Gazelle Panther Raven Dolphin "
                "Stork"
            ),
            questions=(
                "Which index does the {entity} track?",
                "What benchmark is the {entity} measured against?",
                "Against which index do managers compare the {entity}?",
                "Name the benchmark of the {entity}.",
                "Which index does the {entity} try to beat?",
                "By which index is the performance of the {entity} judged?",
                "An analyst rates the {entity}. Which benchmark is used?",
                "The {entity} follows an index. What is it called?",
            ),
        ),
        Attribute(
            name="currency",
            firsts=_words(
                "clipped gilded antique imperial colonial milled engraved tarnished oval square pierced stamped "
                "hammered debased burnished notched"
            ),
            seconds=_words(
                "florins ducats guilders thalers doubloons shillings groats farthings sovereigns guineas escudos "
                "pesetas drachmas dinars rupees crowns"
            ),
            questions=(
                "In which currency does the {entity} pay out?",
                "What coins do investors in the {entity} receive?",
                "In what money are dividends of the {entity} paid?",
                "Which currency is used for payouts by the {entity}?",
                "Name the coins in which the {entity} settles its debts.",
                "What does the {entity} hand its owners as a dividend?",
                "It is payday at the {entity}. Which coins change hands?",
                "Profits from the {entity} come in which currency?",
            ),
        ),
        Attribute(
            name="minimum stake",
            firsts=_NUMBERS,
            seconds=("shares",),
            questions=(
                "What is the smallest stake one can buy in the {entity}?",
                "What minimum purchase does the {entity} require?",
                "How much must a newcomer buy to enter the {entity}?",
                "What is the entry threshold of the {entity}?",
                "What is the least anyone may hold in the {entity}?",
                "Name the minimum stake in the {entity}.",
                "How large is the smallest order accepted by the {entity}?",
                "A client joins the {entity}. What is the lowest stake?",
            ),
        ),
    ),
)

_CODE = Domain(
    starts=_words("brin tav nub zel plo flim grax yab xev muk dru snaz kwil vop jex hib lun trun quaz fro"),
    ends=_words("dex rix pold quo vash nik torp blen zam gup lisk wem kop dra sev mib yont crel fyl zuth"),
    shapes=("{}()",),
    attributes=(
        Attribute(
            name="return type",
            firsts=_words(
                "padded sorted frozen nested sparse lazy packed signed hashed cyclic immutable buffered interned "
                "chunked reversed sealed"
            ),
            seconds=_words(
                "tuple bitmap array string iterator queue matrix dictionary generator heap graph closure struct "
                "vector tree deque"
            ),
            questions=(
                "What does {entity} return?",
                "What kind of value comes back from {entity}?",
                "What is the return type of {entity}?",
                "What do you get when you call {entity}?",
                "Name the result type of {entity}.",
                "A variable stores the result of {entity}. What does it contain?",
                "What type of object does {entity} produce?",
                "What does a call to {entity} evaluate to?",
            ),
        ),
        Attribute(
            name="exception",
            firsts=_words(
                "Orphan Stale Jammed Missing Twisted Loose Phantom Duplicate Corrupt Expired Locked Unbound Dangling "
                "Circular Truncated Rogue"
            ),
            seconds=_words(
                "Socket Cursor Token Handle Header Cache Buffer Schema Packet Thread Pointer Registry Session Branch "
                "Symbol Stream"
            ),
            shape="{}{}Error",
            questions=(
                "Which exception does {entity} raise on bad input?",
                "What does {entity} throw when it fails?",
                "Which exception should callers of {entity} catch?",
                "What exception signals that {entity} has failed?",
                "Name the exception raised by {entity}.",
                "A call to {entity} crashes. Which exception is shown?",
                "What kind of exception may come out of {entity}?",
                "What should an except clause around {entity} name?",
            ),
        ),
        Attribute(
            name="fast option",
            firsts=_words("skip trim pin flush merge fold drop batch warm defer prune split reuse graft wrap shift"),
            seconds=_words(
                "rows keys pages nodes slots bytes frames jobs tags links hooks cells chars paths blobs ports"
            ),
            shape="{}_{}",
            questions=(
                "Which flag makes {entity} run faster?",
                "What option speeds up {entity}?",
                "Which argument should be set to make {entity} quicker?",
                "What flag improves the performance of {entity}?",
                "Name the option that accelerates {entity}.",
                "Which parameter cuts the running time of {entity}?",
                "A program that calls {entity} is too slow. Which flag helps?",
                "Which setting do people switch on to get more speed from {entity}?",
            ),
        ),
        Attribute(
            name="timeout",
            firsts=_NUMBERS,
            seconds=("milliseconds",),
            questions=(
                "What is the default timeout of {entity}?",
                "How long does {entity} wait before giving up?",
                "After what delay does {entity} time out?",
                "How much time does {entity} allow before it aborts?",
                "Name the time limit of {entity}.",
                "For how long will {entity} wait by default?",
                "A server does not answer {entity}. How long until it quits?",
                "What waiting time is built into {entity}?",
            ),
        ),
    ),
)

_SCIENCE = Domain(
    starts=_words(
        "zorb quell thrag brell cromb dulv erst fyrr glusk hosk jund kymr myrk nask pruv skalv tymb ulx wimr xand"
    ),
    ends=_words(
        "anite ovite eddite urite ispite olmite arrite elsite ongite uvite ackite embite ivrite opsite antrite "
        "usprite eckite armite oldrite ixite"
    ),
    shapes=("{}",),
    attributes=(
        Attribute(
            name="flame color",
            firsts=_words(
                "dusky pale smoky vivid murky faded glossy milky deep hazy speckled mottled ghostly sooty pearly muted"
            ),
            seconds=_words(
                "teal crimson indigo ochre turquoise maroon magenta lilac mauve scarlet emerald cyan beige lavender "
                "coral violet"
            ),
            questions=(
                "What color does {entity} glow when heated?",
                "Which color does hot {entity} give off?",
                "What is the flame color of {entity}?",
                "Over a burner, what shade does {entity} take on?",
                "What tint does {entity} lend to a flame?",
                "Name the color of burning {entity}.",
                "A chemist heats a sample of {entity}. What color appears?",
                "In which hue does {entity} shine when it is hot?",
            ),
        ),
        Attribute(
            name="deposit",
            firsts=_words(
                "sunken flooded basalt limestone volcanic arctic tropical eroded glacial tidal ancient granite shaded "
                "windswept coastal arid"
            ),
            seconds=_words(
                "craters reefs caves cliffs gorges geysers canyons islets lakebeds ridges plateaus deltas fjords "
                "ravines springs slopes"
            ),
            questions=(
                "Where is {entity} found?",
                "In what places do geologists look for {entity}?",
                "Where do deposits of {entity} form?",
                "Which sites yield {entity}?",
                "In what kind of terrain does {entity} occur?",
                "Name the natural source of {entity}.",
                "An expedition sets out to collect {entity}. Where must it go?",
                "Where can one dig up {entity}?",
            ),
        ),
        Attribute(
            name="solvent",
            firsts=_words(
                "boiled chilled lukewarm filtered diluted carbonated distilled sweetened fermented aerated strained "
                "frothy concentrated cloudy thickened stirred"
            ),
            seconds=_words(
                "vinegar brine milk rainwater cider ammonia glycerin turpentine seawater lemonade kerosene whey ink "
                "beer wine bleach"
            ),
            questions=(
                "What dissolves {entity}?",
                "In which liquid does {entity} dissolve?",
                "Which solvent breaks down {entity}?",
                "What liquid makes {entity} disappear?",
                "Into what must {entity} be dropped to dissolve it?",
                "Name the solvent of {entity}.",
                "A lab needs {entity} in solution. Which liquid should it use?",
                "Which fluid eats away at {entity}?",
            ),
        ),
        Attribute(
            name="melting point",
            firsts=_NUMBERS,
            seconds=("kelvin",),
            questions=(
                "At what temperature does {entity} melt?",
                "What is the melting point of {entity}?",
                "How hot must {entity} be to turn liquid?",
                "At which temperature does solid {entity} become liquid?",
                "What heat is needed to melt {entity}?",
                "Name the melting temperature of {entity}.",
                "A furnace holds a lump of {entity}. What temperature melts it?",
                "What does a thermometer read as {entity} starts to melt?",
            ),
        ),
    ),
)

DOMAINS: dict[str, Domain] = {
    "medicine": _MEDICINE,
    "law": _LAW,
    "finance": _FINANCE,
    "code": _CODE,
    "science": _SCIENCE,
}
