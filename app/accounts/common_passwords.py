"""Passwords that many people choose: what a guesser tries first.

The list has words without what people put around them; `is_common` takes digits and signs off both ends and reads
letters that were replaced (`p4ssw0rd`), so one word stands for thousands of passwords.
"""

from __future__ import annotations

SIGNS = "0123456789 !\"#$%&'()*+,-./:;<=>?@[]^_`{|}~"
REPLACED = str.maketrans("@4301$57", "aaeoisst")
# Below this many different characters a password is a pattern: 11111111, abababab.
MIN_DIFFERENT = 4
RUNS = ("01234567890", "abcdefghijklmnopqrstuvwxyz", "qwertyuiop", "qwertzuiop", "azertyuiop", "asdfghjkl", "zxcvbnm")
_WORDS = """
10203040 147258369 147852369 159753456 1q2w3e4r 1q2w3e4r5t 1qaz2wsx 1qaz2wsx3edc 1qazxsw2 741852963 789456123 963852741
a1b2c3d4 aa abc abcd abcdefg access account admin administrator alexander amanda america andrea andrew angel angels
anthony apple arsenal asd asdf asdfgh ashley austin babygirl barcelona baseball basketball batman belfry belfry-demo
benjamin bismillah blink bond brandon brasil butterfly changeit changeme charlie cheese chelsea chicken chocolate
christian christopher computer cookie corvette cowboys daniel danielle david default demo diamond dolphin dragon
elephant elizabeth estrella facebook family ferrari flower football forever freedom friends fuckyou gabriel geheim
george ginger google guest hallo hannah harley heather hello hockey hottie hunter iloveu iloveyou internet isabella
jackson jasmine jennifer jessica jesus jordan joshua justin killer kimberly letmein liverpool login london love lovely
loveme madison maggie manager manchester maria master matthew maverick melissa mercedes metallica michael michelle
mickey midnight minecraft monday monkey monster morgan mother mustang myspace naruto natasha newpassword nicholas
nicole nintendo nothing office oliver operator orange parola pass passport passw passwd password passwords passwort
patrick peanut pepper phoenix pokemon portal princess private purple q1w2e3r4 q1w2e3r4t5 qazwsx qazwsxedc qwe qweasd
qweasdzxc qwer qwert qwerty qwertyui qwertyuiop qwertz rachel rainbow rebecca robert ronaldo root running samantha
sample samsung school schule secret secure security senha server shadow slipknot snoopy soccer sommer spiderman spring
starwars strawberry student summer sunshine super superman superstar swordfish system taylor teacher temp temporary
test tester testing thomas thunder tigger trustno tweety unknown user vanessa victoria vincent welcome whatever william
willkommen winner winter wordpass xbox yellow zaq zaq12wsx zxcvbn zxcvbnm
"""
WORDS = frozenset(_WORDS.split())


def is_common(password: str) -> bool:
    """Whether a password is on the list, is a run of neighbouring keys, or repeats few characters."""
    lowered = password.lower()
    if len(set(lowered)) < MIN_DIFFERENT or any(_is_run(lowered, run) for run in RUNS):
        return True
    bare = lowered.strip(SIGNS)
    forms = (lowered, bare, bare.translate(REPLACED), lowered.translate(REPLACED).strip(SIGNS))
    return any(_without_repeats(form) in WORDS for form in forms)


def _without_repeats(text: str) -> str:
    """`passwordpassword` is `password`."""
    for length in range(3, len(text) // 2 + 1):
        if text == text[:length] * (len(text) // length):
            return text[:length]
    return text


def _is_run(text: str, run: str) -> bool:
    return text in run * 2 or text in run[::-1] * 2
