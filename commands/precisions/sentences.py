"""Built-in English texts of 5 to 80 words, each with a question about it."""

from __future__ import annotations

from collections.abc import Sequence

SENTENCES: Sequence[tuple[str, str]] = (
    ("The pizza was cold again.", "What was cold?"),
    (
        "Anna Keller moved from Vienna to Toronto last spring to work for a small publisher of travel books.",
        "Where did Anna Keller move to?",
    ),
    (
        "Although the reviews had been lukewarm, the film turned out to be a warm, funny and surprisingly moving story "
        "about two brothers who inherit a lighthouse.",
        "What do the two brothers inherit?",
    ),
    (
        "When the storm reached the coast shortly after midnight, the harbour master in Bergen ordered all ferries to "
        "stay where they were, the hospital switched to its own generators, and hundreds of people who had been on "
        "their way home from a concert spent the night on camp beds in the town hall, where volunteers brought them "
        "tea, blankets and, towards morning, far more sandwiches than anybody could eat.",
        "Where did the people from the concert spend the night?",
    ),
    ("I will never fly with this airline again.", "What will I never do again?"),
    (
        "The bridge over the river Tay, opened in 1878, collapsed in a winter storm only a year later.",
        "When was the bridge opened?",
    ),
    (
        "Nobody at the office could explain why the new printer, which had cost more than the old one ever did, "
        "refused to print anything but the letter q.",
        "What was the only letter that the printer printed?",
    ),
    (
        "The committee, which had met eleven times since January without agreeing on anything except the date of the "
        "next meeting, finally voted on Thursday to lend the painting to the museum in Lisbon for two years, on "
        "condition that it be insured for four million euros and hung in a room without windows.",
        "Where will the painting be lent to?",
    ),
    ("What a wonderful, generous and thoughtful present!", "How is the present?"),
    (
        "Water boils at a lower temperature on high mountains, because the pressure of the air is lower there.",
        "Why does water boil at a lower temperature on mountains?",
    ),
    (
        "Our guide, a retired geologist named Samuel Okoye, knew every stone on the island and had, as far as we could "
        "tell, a personal opinion of each of them.",
        "What was the guide's name?",
    ),
    (
        "The phone arrived two days late in a box that somebody had clearly opened before, the charger was missing, "
        "the screen had a scratch from one corner to the other, and when I called the shop I was told to write a "
        "letter, which I did, and to which I have had no answer in six weeks.",
        "What was missing?",
    ),
    ("The library closes at six on Fridays.", "When does the library close on Fridays?"),
    (
        "Honda said on Tuesday that it would build a second battery plant in Ohio together with a Korean partner.",
        "Where will the plant be built?",
    ),
    (
        "Bees tell each other where flowers are by a dance whose direction shows the way and whose length shows how "
        "far it is.",
        "How do bees tell each other where flowers are?",
    ),
    (
        "She had planned to read for an hour and go to bed early, but the story of the clockmaker's daughter, who "
        "walks from Prague to the sea with nothing but a map that her father drew from memory, would not let her go, "
        "and it was nearly four in the morning when she turned the last page, wide awake and a little sad that it "
        "was over.",
        "Who drew the map?",
    ),
    ("My account was charged twice yesterday.", "How often was the account charged?"),
    (
        "The hotel was clean, the staff were friendly, and breakfast was served until eleven, which we liked.",
        "Until when was breakfast served?",
    ),
    (
        "In the second half Brazil pressed harder and harder, but the goalkeeper of Norway, who was playing her first "
        "match of the season, stopped everything that came near her.",
        "Whose goalkeeper stopped everything?",
    ),
    (
        "If you would like to return your order, put everything back into the box in which it came, print the label "
        "that we have sent you by email, and take the parcel to any post office within thirty days; as soon as it has "
        "reached our warehouse in Leeds, which usually takes three working days, we will pay the full price back to "
        "the card that you used.",
        "Within how many days can an order be returned?",
    ),
    ("Please cancel my subscription today.", "What should be cancelled?"),
    (
        "Marie Curie is still the only person who has won Nobel prizes in two different sciences.",
        "Who has won Nobel prizes in two sciences?",
    ),
    (
        "The soup was bland, the waiter forgot our drinks twice, and the music was so loud that we could not hear "
        "each other across a very small table.",
        "How was the soup?",
    ),
    (
        "Prices of coffee rose to the highest level in ten years after frost had damaged plantations in the south of "
        "Brazil and a lack of containers had kept ships waiting in the ports of Vietnam, and traders in London and New "
        "York expect that it will take until next autumn before cafés and supermarkets can buy as cheaply as they "
        "did.",
        "What damaged the plantations?",
    ),
    ("Turn left after the old church.", "Where should one turn left?"),
    (
        "The vaccine must be kept between two and eight degrees and must not be shaken or frozen.",
        "How warm must the vaccine be kept?",
    ),
    (
        "As soon as the update was installed, the app opened twice as fast, used half as much of the battery, and "
        "forgot all of my passwords.",
        "What did the app forget?",
    ),
    (
        "The judge found that the company had known since 2014 that the valve could fail, that it had told its dealers "
        "but not its customers, and that the letter which it sent in the end was written so that hardly anybody would "
        "understand it; she ordered it to replace every valve that is still in use and to pay the costs of both "
        "sides.",
        "Since when had the company known that the valve could fail?",
    ),
    ("Is there a train on Sunday morning?", "On which day is the train?"),
    (
        "Light takes a little more than eight minutes to travel from the sun to the earth.",
        "How long does light take from the sun to the earth?",
    ),
    (
        "He apologised in front of everybody, paid for the broken window, and came back the next Saturday to help "
        "them paint the fence, which nobody had expected.",
        "What did he help to paint?",
    ),
    (
        "The first time that I heard the orchestra of Leipzig play the symphony I was sitting behind a pillar, next "
        "to a man who unwrapped one sweet after the other, and still I remember every bar of the slow movement, "
        "because never before had I heard so many people be quiet for such a long time without anybody having asked "
        "them to.",
        "Where was I sitting?",
    ),
    ("These shoes fell apart after one week.", "What fell apart?"),
    (
        "Dr Priya Nair of the University of Leeds has studied the sleep of shift workers for twenty years.",
        "What has Priya Nair studied?",
    ),
    (
        "To make the dough, mix flour, water, salt and a little yeast, leave it overnight in a cool place, and fold "
        "it three times before you bake it.",
        "How often should the dough be folded?",
    ),
    (
        "It is not a bad car, and on a long, straight and empty road it may even be a good one, but the seats are "
        "hard, the gears hesitate whenever one is in a hurry, and the salesman's promise that it would take me from "
        "Madrid to Paris on a single charge turned out to be true only for somebody who travels slowly, without "
        "luggage, and downhill.",
        "How are the seats?",
    ),
    ("Thanks, that solved my problem immediately!", "What was solved?"),
    (
        "The river Danube flows through ten countries before it reaches the Black Sea in Romania.",
        "Through how many countries does the Danube flow?",
    ),
    (
        "Shares of the airline fell by nine per cent on Monday after its pilots had announced that they would strike "
        "on the first weekend of the holidays.",
        "By how much did the shares fall?",
    ),
    (
        "My grandmother kept the letters in a biscuit tin under the stairs, tied together with the blue ribbon that "
        "she had worn on the day she left Naples, and although she could neither read nor write English she knew "
        "exactly which of them was which, by the stamps, by the creases, and by the place where my grandfather had "
        "once put down his cup.",
        "Where did the grandmother keep the letters?",
    ),
)
