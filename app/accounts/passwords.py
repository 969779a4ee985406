"""Password hashes (argon2id) and common passwords."""

from __future__ import annotations

from unicodedata import normalize

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

__all__ = [
    "ARGON2_COSTS",
    "MAX_PASSWORD_CHARACTERS",
    "MIN_PASSWORD_CHARACTERS",
    "NORMAL_FORM",
    "hash_password",
    "is_common",
    "is_password",
    "needs_rehash",
]

MIN_PASSWORD_CHARACTERS = 8
MAX_PASSWORD_CHARACTERS = 200

# OWASP's password storage cheat sheet for argon2id: 19 MiB, 2 passes, 1 lane. The library's own 64 MiB would be
# 2 GiB for 32 concurrent logins.
ARGON2_COSTS = {"time_cost": 2, "memory_cost": 19 * 1024, "parallelism": 1}

# Keyboards send ü as one character or as two (NIST SP 800-63B, section 5.1.1.2).
NORMAL_FORM = "NFKD"


# What people put around the words of the list: `is_common` strips it, and reads replaced letters (`p4ssw0rd`), so that
# one word covers thousands of passwords.
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
_hasher = PasswordHasher(
    time_cost=ARGON2_COSTS["time_cost"],
    memory_cost=ARGON2_COSTS["memory_cost"],
    parallelism=ARGON2_COSTS["parallelism"],
)


def hash_password(password: str) -> str:
    """Return the hash of a password. Slow by design."""
    return _hasher.hash(normalize(NORMAL_FORM, password))


def is_password(password_hash: str, password: str) -> bool:
    """Return whether a password matches a hash. Takes as long as `hash_password`."""
    try:
        return _hasher.verify(password_hash, normalize(NORMAL_FORM, password))
    except (VerificationError, InvalidHashError):  # also raised for an account without a password
        return False


def needs_rehash(password_hash: str) -> bool:
    """Return whether a hash has other parameters than the current ones."""
    return _hasher.check_needs_rehash(password_hash)


def is_common(password: str) -> bool:
    """Return whether a password is on the list, is a run of neighbouring keys, or has few different characters."""
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
