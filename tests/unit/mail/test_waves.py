"""The waves of mails grow while the server is fast."""

from __future__ import annotations

from flask_belfry.mail.waves import FIRST_WAVE, LARGEST_WAVE, WAVE_SECONDS, Waves


def test_fast_waves_double_and_slow_ones_halve():
    waves = Waves()
    sizes = []
    for seconds in (0.01, 0.01, WAVE_SECONDS + 0.01):
        waves.learn(seconds)
        sizes.append(waves.size)
    assert sizes == [FIRST_WAVE * 2, FIRST_WAVE * 4, FIRST_WAVE * 2]


def test_waves_stay_within_their_limits():
    waves = Waves()
    waves.learn(10.0)
    assert waves.size == FIRST_WAVE
    for _ in range(10):
        waves.learn(0.0)
    assert waves.size == LARGEST_WAVE
