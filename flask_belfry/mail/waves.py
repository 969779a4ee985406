"""The waves of mails: how many are marked as sending in one commit."""

from __future__ import annotations

# Few, so that a crash leaves few uncertain, and more when the server is fast, so that commits do not slow down sending.
FIRST_WAVE = 4
LARGEST_WAVE = 50
WAVE_SECONDS = 0.2


class Waves:
    """The size of the next wave, learned from those that all threads of a process have sent."""

    def __init__(self) -> None:
        self.size = FIRST_WAVE

    def learn(self, seconds: float) -> None:
        """Double the size after a wave that took less than WAVE_SECONDS, and halve it after a slower one."""
        self.size = max(FIRST_WAVE, self.size // 2) if seconds > WAVE_SECONDS else min(LARGEST_WAVE, self.size * 2)
