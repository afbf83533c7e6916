"""From a hundred answers of a person to how many labels are wrong, and which.

`strata` divides the samples by doubt, and says in which order they are asked about. `plan` is such an order for one
run, and `given_labels` is what it asks about. `answers` reads what a person said. `estimate` makes the rate of wrong
labels and its interval of it, `calibration` the probability of each label by a model that `logistic` fits, and `result`
is what a user asks.
"""

from dynalens.auditing.answers import Answers, read_answers
from dynalens.auditing.estimate import StratifiedRate, interval, stratified_rate
from dynalens.auditing.given_labels import Given, given_to, keeps_all_given, label_list
from dynalens.auditing.plan import Plan, draw, plan_of_answers
from dynalens.auditing.result import Audit, few_answers_doubts

__all__ = [
    "Answers",
    "Audit",
    "Given",
    "Plan",
    "StratifiedRate",
    "draw",
    "few_answers_doubts",
    "given_to",
    "interval",
    "keeps_all_given",
    "label_list",
    "plan_of_answers",
    "read_answers",
    "stratified_rate",
]
