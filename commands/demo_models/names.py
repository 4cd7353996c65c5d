"""Names and sentences for token classification, in addition to those of countries."""

from __future__ import annotations

import re

from commands.demo_models.training import words

FIRST_NAMES = words("""
James Mary Robert Linda Michael Susan David Karen Richard Nancy Thomas Lisa Daniel Sandra Paul Emily
Mark Laura George Anna Kevin Rachel Brian Helen Edward Diana Jack Julia Dennis Grace Peter Alice Henry Sofia Carlos
Maria Ahmed Fatima Wei Yuki Ivan Olga Pierre Claire Hans Ingrid Ravi Priya Omar Leila Marco Giulia Larry Bill
Elon Jeff Tim Oscar Nina""")
LAST_NAMES = words("""
Smith Johnson Williams Brown Davis Miller Wilson Moore Taylor Anderson Jackson White Harris Clark Lewis
Walker Hall Young King Wright Hill Green Adams Baker Nelson Carter Banks Fields Woods Rivers Stone Brooks Mills Bell
Cook Page Price Gates Law Masters Waters Parks Winters Garcia Lopez Rossi Dubois Schmidt Weber Novak Ivanov Tanaka
Chen Kumar Hassan Silva Olsen Kowalski Murphy Kelly""")
COMPANIES = words("""
Orange Falcon Summit Bluebird Granite Harbor Pioneer Vertex Lotus Phoenix Titan Mango Cedar Comet Delta
Everest Fusion Galaxy Horizon Jupiter Lantern Meteor Nova Oasis Peach Quartz Raven Sapphire Tulip Unity Velvet Willow
Zenith Amber Beacon Cobalt Dynamo Ember Lemon Maple Nimbus Orchid Panther Rocket Shell Tesla Siemens Toyota Nokia
Intel Boeing Nestle Puma Dell Target Oracle Amazon""")
SUFFIXES = ["Inc.", "Ltd.", "Corp.", "Group", "Systems", "Software", "Bank", "Airlines", "Foods", "Motors", "Labs"]
TOWNS = re.split(
    r",\s+",
    """Oakland, Springfield, Palo Alto, Mountain View, Redmond, Seattle, Boston, Chicago, Geneva, Munich, Lyon, Milan,
    Osaka, Mumbai, Shanghai, Toronto, Sydney, Barcelona, Hamburg, Manchester, Rotterdam, Krakow, Gothenburg, Antwerp,
    San Jose, Portland, Austin, Dallas, Denver, Glasgow, Porto, Marseille, Naples, Bilbao, Salzburg, Basel, Fremont,
    Sunnyvale, Menlo Park, Bellevue""",
)
NOUNS = words("""
actor airport bank book bread bridge bus camera car child city coach coffee cup dentist doctor farmer film fish flower
game garden guitar hospital hotel house job judge kitchen language lawyer letter library machine manager market meal
minister movie music newspaper nurse office painter park phone piano pilot plan plane police president price river
road school shares ship shoe shop song station street student sugar teacher team ticket tool town train tree truck
village water window winner writer year""")
TEMPLATES = [
    "{org} was started by {per} in {loc}.",
    "{org} was set up by {per} and {per} in {loc}, {loc}.",
    "{per} founded {org} in {loc}.",
    "{per} works for {org} in {loc}.",
    "{per} was born in {loc}, {loc}, and moved to {loc}.",
    "{org} is based in {loc}, {loc}.",
    "{org} has bought {org} for two billion dollars.",
    "{org} opens an office in {loc}, says {per}.",
    "The head of {org}, {per}, travels to {loc} on Monday.",
    "{per}, who runs {org}, met {per} of {org}.",
    "Shares of {org} fell after {per} resigned.",
    "The train from {loc} to {loc} was late, {per} wrote.",
    "{per} studied in {loc} before joining {org}.",
    "It is raining in {loc}.",
    "Yesterday {per} called {per} from {loc}.",
    "The weather in {loc} is better than in {loc}.",
    "A spokesman for {org} declined to comment.",
    "She ate an apple and a peach in the harbor after the game.",
    "The company was founded by two brothers in a small town.",
    "He bought shares of the bank, wrote a book and left the country.",
    "The jobs report of the group came out in the summer.",
    "The {noun} and the {noun} cost more than a {noun} this year.",
    "{per} bought a {noun} and a {noun} from {org} in {loc}.",
    "{org} makes the best {noun} in {loc}, a {noun} told {per}.",
    "As a {noun}, {per} liked the {noun} near {loc}.",
    "In {loc}, a {noun} of {org} lost his {noun}.",
    "{per} went to {loc} as the new {noun} of {org}.",
]
UNSEEN_TEMPLATES = [
    "{org} was founded by {per} in {loc}, {loc}.",
    "Together with {per}, {per} manages the factory of {org} near {loc}.",
    "In {loc}, {org} hired {per} as its new engineer.",
    "{per} flew to {loc} to sell computers for {org}.",
]
# Not used as a place, because it is in the README's example. The example's other names are in none of the lists above.
KEPT = {"California"}
