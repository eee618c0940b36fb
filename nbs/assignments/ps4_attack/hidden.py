"Cases of assignment 4 that no student sees: other shapes, other numbers, corners."
from visft_nb.course.tasks_ps4 import (
    _count_case, _fgsm_case, _optimum_case, _project_case, _start_case, _strong_case, _through_case, _unmask_case,
    _worst_case)


def project(rng):
    return [_project_case(rng, 'l2', (7, 3, 3, 2), .8, '', 6.), _project_case(rng, 'linf', (1, 2, 5, 3), .3, ''),
            _project_case(rng, 'l2', (8, 20), .5, '')]


def fgsm(rng):
    return [_fgsm_case(rng, 'l2', (4, 1, 5, 5), .4, '', flat=True),
            _fgsm_case(rng, 'l2', (7, 3, 3, 4), 2., '', edge=True, classes=3),
            _fgsm_case(rng, 'l2', (6, 1, 4, 4), .3, '', training=True), _fgsm_case(rng, 'linf', (1, 1, 6, 5), .05, '')]


def pgd(rng):
    return [_start_case(rng, (2, 3, 40, 40), .03), _count_case(rng, (2, 3, 32, 32), .1, .3, 1),
            _count_case(rng, (4, 1, 32, 32), .15, .2, 4),
            _optimum_case(rng, 'linf', (5, 3, 4, 4), .35, '', edge=True),
            _optimum_case(rng, 'l2', (6, 1, 8, 8), .4, '', bias=(9., 0.)),
            _strong_case(rng, 'l2', (32, 1, 6, 6), 1.2, 12, '', training=True)]


def worst(rng):
    return [_worst_case(rng, 60, 4, .06), _worst_case(rng, 45, 6, .12)]


def straight(rng):
    return [_through_case(rng, 'torch.square', (3, 5)), _through_case(rng, 'torch.sign', (1, 2, 3, 3))]


def unmask(rng):
    return [_unmask_case(rng, 6, 1., .12, 20, ''), _unmask_case(rng, 3, 1e5, .2, 25, ''),
            _unmask_case(rng, 256, 1e5, .12, 15, '')]


HIDDEN = {'ps4.project': project, 'ps4.fgsm': fgsm, 'ps4.pgd': pgd, 'ps4.worst': worst,
          'ps4.straight': straight, 'ps4.unmask': unmask}
