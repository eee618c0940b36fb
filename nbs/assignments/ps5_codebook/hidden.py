"Cases of assignment 5 that no student sees: other shapes, corners."
from visft_nb.course.tasks_ps5 import (
    average_cases, nearest_cases, revive_cases, straight_cases, usage_cases)

HIDDEN = {'ps5.nearest': lambda rng: nearest_cases(rng, 1, 4, 5) + nearest_cases(rng, 20, 3, 2),
          'ps5.straight': lambda rng: straight_cases(rng, 2, 4, .7),
          'ps5.averages': lambda rng: average_cases(rng, 3, 6, 2),
          'ps5.usage': lambda rng: usage_cases(rng, 12, (30, 1)),
          'ps5.revive': lambda rng: revive_cases(rng, 30, 5, 4) + revive_cases(rng, 6, 9, 1)}
