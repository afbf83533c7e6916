"""Which of several losses of a step has the labels of the samples: what the step made its targets of decides."""

from collections.abc import Sequence
from typing import Any

from dynalens.capture import ANOTHER_NETWORK, REMEDY, CaptureError, SameNumbers, all_weights, share_values
from dynalens.identity.trace import TRACE


class LossOfLabels:
    """Choose one of several different losses of a step that was traced.

    A loss is chosen if its targets are the batch's vector of labels, row by row in each view, and its logits were
    computed from the batch's inputs. All other losses must have targets that were made of something else, such as sizes
    or a network's predictions, and other logits. So a loss of mixed labels, of another view or of a second head is
    never chosen from. Targets that say which pairs of samples have the same label are not labels. Only a loss of
    probabilities that another network, a teacher, predicts may have the same logits.

    Attributes:
        is_refuted: Whether another loss, after one had been chosen, turned out to have the labels as its targets, too.
    """

    def __init__(self) -> None:
        self.is_refuted = self._has_chosen = False
        self._alike: dict[int, SameNumbers] = {}
        self._are_predicted: dict[int, bool] = {}
        self._use: tuple[bool, Any] | None = None

    def call_of_labels(self, calls: Sequence[Any], views: int = 1) -> Any:
        """Return the loss that has the labels; None if there is none or more than one.

        Waits in the first such steps.
        """
        own_calls = [call for call in calls if _is_of_labels(call, views)]
        if len(own_calls) != 1:
            return None
        own_call = own_calls[0]
        other_calls = [call for call in calls if call is not own_call and not TRACE.are_of_pairs(call.targets)]
        if any(TRACE.source(call.targets) or TRACE.mixes(call.targets) for call in other_calls):
            return None
        if not TRACE.inputs.lead_to(own_call.logits) or any(
            share_values(own_call.logits, call.logits) and not self._is_of_teacher(place, call)
            for place, call in enumerate(other_calls)
        ):
            return None
        are_labels = [self._are_labels(place, own_call, call) for place, call in enumerate(other_calls)]
        self.is_refuted |= self._has_chosen and any(are_labels)
        self._has_chosen |= not any(are_labels)
        return None if any(are_labels) else own_call

    def check_inputs(self, nodes: Sequence[Any]) -> None:
        """Raise if logits of one of the first steps are of the batch's inputs, and those of another are made.

        A generator makes samples for the same labels. It has parameters of its own.
        """
        if not TRACE.follows or not nodes:
            return
        use = TRACE.inputs.lead_from(set(nodes)), all_weights(nodes)
        self._use = self._use or use
        if use[0] != self._use[0] and use[1] != self._use[1]:
            raise CaptureError(f"{ANOTHER_NETWORK} {REMEDY}")

    def _is_of_teacher(self, place: int, call: Any) -> bool:
        """Return whether the targets are probabilities that a network predicted.

        Waits for the device in the first step.

        Predictions were computed from inputs. If this cannot be followed, the smallest number in each row of a
        prediction is another one, while mixed and smoothed labels have the same smallest number in many rows. Two
        classes need the first sign, because any row of them may be a mixed label.
        """
        if not call.targets.is_floating_point() or call.targets.ndim != 2 or call.targets.requires_grad:
            return False
        if place not in self._are_predicted:
            smallest = call.targets.amin(dim=1)
            differ = call.targets.shape[1] > 2 and len(smallest.unique()) > len(smallest) / 2
            self._are_predicted[place] = differ or TRACE.inputs.lead_to_constant(call.targets)
        return self._are_predicted[place]

    def _are_labels(self, place: int, own_call: Any, other_call: Any) -> bool:
        """Return whether other targets are the labels after all, in any order.

        Operations that cannot be followed may have made them.
        """
        alike = self._alike.setdefault(place, SameNumbers())
        if not alike.is_open:
            return False
        return alike.tells(own_call.targets.flatten().tolist(), other_call.targets.flatten().tolist())


def _is_of_labels(call: Any, views: int) -> bool:
    source = TRACE.source(call.targets)
    if source is None or not source.is_vector or call.targets.ndim != 1:
        return False
    # Of several views, the order is compared later, on the device.
    return len(source.rows) == source.num_rows * views if views > 1 else not source.is_choice
