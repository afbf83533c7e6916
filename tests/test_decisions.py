"""A dataset with decisions applied has exactly these, and its original is as before."""

from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Subset, TensorDataset

from dynalens import RelabelledDataset, apply_decisions
from dynalens.datasets import root_indices, sample_names

Item = namedtuple("Item", ["image", "label", "weight"])
HEADER = "sample_id,label,label_name,decision,new_label,new_label_name\n"


class Named(list[Any]):
    classes = ("cat", "dog", '<b>,"x"')


def written(tmp_path: Path, rows: str, header: str = HEADER) -> Path:
    path = tmp_path / "decisions.csv"
    path.write_text(header + rows, encoding="utf-8")
    return path


def test_dropped_samples_are_gone_corrected_ones_are_changed_and_all_others_stay(tmp_path: Path) -> None:
    data = Named([("a", 0), ("b", 1), ("c", 2), ("d", 0), ("e", 1)])
    path = written(tmp_path, '0,0,cat,keep,,\n1,1,dog,drop,,\n3,0,cat,relabel,2,"<b>,""x"""\n4,1,dog,relabel,0,cat\n')
    decided = apply_decisions(data, path)
    assert list(decided) == [("a", 0), ("c", 2), ("d", 2), ("e", 0)]
    assert data == [("a", 0), ("b", 1), ("c", 2), ("d", 0), ("e", 1)]
    assert decided.indices == [0, 2, 3, 4]
    assert decided.relabelled == {3: 2, 4: 0}
    assert decided.classes == list(Named.classes)


def test_the_type_of_items_and_labels_is_kept(tmp_path: Path) -> None:
    path = written(tmp_path, "0,,,relabel,1,\n")
    tensors = apply_decisions(TensorDataset(torch.zeros(2, 3), torch.tensor([0, 0])), path)
    batch = next(iter(DataLoader(tensors, batch_size=2)))
    assert batch[1].tolist() == [1, 0]
    assert batch[1].dtype == torch.int64
    (number,) = (apply_decisions([("a", np.int32(0))], path)[0][1],)
    assert (type(number), int(number)) == (np.int32, 1)
    assert apply_decisions([Item("a", 0, 0.5)], path)[0] == Item("a", 1, 0.5)
    assert apply_decisions([["a", 0]], path)[0] == ["a", 1]
    original = {"image": "a", "label": 0}
    assert apply_decisions([original], path)[0] == {"image": "a", "label": 1}
    assert original["label"] == 0
    for place in ({"label": "kind"}, {"label_key": "kind"}):  # the second is its earlier name
        assert apply_decisions([{"image": "a", "kind": 0}], path, **place)[0]["kind"] == 1


def test_a_decided_dataset_has_the_labels_of_its_samples_as_targets(tmp_path: Path) -> None:
    data: Any = Named([("a", 0), ("b", 1), ("c", 2), ("d", 0)])
    path = written(tmp_path, "1,1,dog,drop,,\n3,cat,,relabel,2,\n")
    assert not hasattr(apply_decisions(data, path), "targets")
    assert not hasattr(apply_decisions(data, path), "class_to_idx")
    data.class_to_idx = {"cat": 0, "dog": 1, "owl": 2}
    for targets in ([0, 1, 2, 0], torch.tensor([0, 1, 2, 0])):
        data.targets = targets
        decided = apply_decisions(data, path)
        assert [int(target) for target in decided.targets] == [label for _, label in decided] == [0, 2, 2]
        assert decided.class_to_idx is data.class_to_idx
    data.targets = [10, 11, 12, 10]  # the dataset makes its labels of them
    assert not hasattr(apply_decisions(data, path), "targets")


def test_ids_may_be_names_and_subsets_have_the_classes_of_their_dataset(tmp_path: Path) -> None:
    path = written(tmp_path, "x/b.png,0,cat,relabel,1,dog\n")
    data = Named([("a", 0), ("b", 0)])
    data_of: Any = data
    decided = apply_decisions(Subset(data_of, [0, 1]), path, sample_ids=["x/a.png", "x/b.png"])
    assert list(decided) == [("a", 0), ("b", 1)]
    assert decided.classes == list(Named.classes)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("9,0,cat,drop,,\n", r"`sample_id` to be in \[0, 2\), got '9' in line 2"),
        ("-1,0,cat,drop,,\n", "got '-1' in line 2"),
        ("a,0,cat,drop,,\n", "got 'a' in line 2. Pass the dataset that was trained on"),
        ("0,0,cat,drop,,\n0,0,cat,keep,,\n", "got another label or decision for sample 0 in line 3 than in line 2"),
        ("0,0,cat,delete,,\n", "`decision` to be one of keep, relabel, drop, got 'delete' in line 2"),
        ("0,0,cat,relabel,3,bird\n", r"`new_label` to be a class in \[0, 3\) or its name, got '3' in line 2"),
        ("0,0,cat,relabel,,dog\n", "`new_label` to be a class .* got ''"),
        ("0,0,cat,relabel,1,cat\n", "`new_label_name` of class 1 to be 'dog', got 'cat' in line 2"),
    ],
)
def test_a_decision_that_cannot_be_applied_is_refused(tmp_path: Path, rows: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        apply_decisions(Named([("a", 0), ("b", 0)]), written(tmp_path, rows))


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`sample_id` to be one of `sample_ids`, got 'c' in line 2"):
        apply_decisions([("a", 0)], written(tmp_path, "c,0,,drop,,\n"), sample_ids=["a"])


def test_another_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the columns sample_id, decision and new_label, or sample_id and answer, got"):
        apply_decisions([("a", 0)], written(tmp_path, "", header="id,label\n"))


def test_a_file_with_labels_that_the_dataset_does_not_have_is_refused_whole_with_all_its_rows(tmp_path: Path) -> None:
    rows = "0,0,,relabel,1,\n1,1,,drop,,\n2,0,,keep,,\n"
    message = (
        r"got 2 that do not. Nothing was applied. [\s\S]*line 2: sample 0 has the label 2, not 0\nline 4: sample 2 has "
        "the label 1, not 0$"
    )
    with pytest.raises(ValueError, match=message):
        apply_decisions([("a", 2), ("b", 1), ("c", 1)], written(tmp_path, rows))


def test_the_error_of_a_file_that_does_not_fit_counts_rows_after_the_twentieth(tmp_path: Path) -> None:
    rows = "".join(f"{i},1,,drop,,\n" for i in range(23))
    with pytest.raises(ValueError, match=r"got 23 that do not[\s\S]*sample 19 has[^\n]*\n\.\.\. and 3 more$"):
        apply_decisions([("a", 0)] * 23, written(tmp_path, rows))


class Folder(list[Any]):
    """As torchvision's ImageFolder: the samples are known by their paths."""

    @property
    def samples(self) -> list[Any]:
        return list(self)


WITH_NAMES = "sample_id,label,decision,new_label,name\n"


def test_rows_with_names_follow_their_files_after_one_was_moved(tmp_path: Path) -> None:
    path = written(tmp_path, "0,0,drop,,a.png\n1,0,relabel,1,b.png\n", header=WITH_NAMES)
    moved = Folder([("b.png", 0), ("c.png", 0), ("a.png", 0)])
    assert list(apply_decisions(moved, path)) == [("b.png", 1), ("c.png", 0)]


def test_a_name_that_the_dataset_does_not_have_refuses_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "0,0,drop,,a.png\n1,0,drop,,gone.png\n", header=WITH_NAMES)
    with pytest.raises(ValueError, match=r"got 1 that do not[\s\S]*line 3: no sample is named 'gone.png'"):
        apply_decisions(Folder([("a.png", 0), ("b.png", 0)]), path)


def test_a_name_that_two_samples_share_leaves_the_position_to_tell(tmp_path: Path) -> None:
    path = written(tmp_path, "1,0,drop,,same.png\n", header=WITH_NAMES)
    assert apply_decisions(Folder([("same.png", 0), ("same.png", 0)]), path).indices == [0]


def test_a_name_is_read_without_the_apostrophe_that_hides_a_formula(tmp_path: Path) -> None:
    path = written(tmp_path, "1,0,drop,,'=a.png\n", header=WITH_NAMES)
    assert apply_decisions(Folder([("=a.png", 0), ("b.png", 0)]), path).indices == [1]


def test_a_dataset_with_decisions_keeps_root_positions_and_names_for_the_next_record(tmp_path: Path) -> None:
    decided = apply_decisions(Folder([("a.png", 0), ("b.png", 0), ("c.png", 1)]), written(tmp_path, "0,0,,drop,,\n"))
    roots = root_indices(decided)
    assert roots.tolist() == [1, 2]
    assert sample_names(decided, roots) == ["b.png", "c.png"]
    relabelled = RelabelledDataset(decided, {1: (1, 0)})
    assert root_indices(relabelled).tolist() == [1, 2]
    assert sample_names(relabelled, roots) == ["b.png", "c.png"]


@pytest.mark.parametrize("header", [HEADER, "sample_id,answer,new_label\n", "sample_id,answer,new_label\n0,,\n"])
def test_a_file_in_which_nothing_is_decided_gives_a_warning(tmp_path: Path, header: str) -> None:
    path = written(tmp_path, "", header)
    with pytest.warns(UserWarning, match="Expected a decision in .*decisions.csv, got none, so the dataset stays"):
        assert list(apply_decisions(Named([("a", 0), ("b", 1)]), path)) == [("a", 0), ("b", 1)]


def test_an_item_without_a_label_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "0,0,,relabel,1,\n")
    with pytest.raises(ValueError, match=r"\(input, label, ...\) or a dict .* got a str. Pass `label=`"):
        apply_decisions(["a"], path)[0]
    with pytest.raises(ValueError, match="got a dict"):
        apply_decisions([{"image": 0}], path)[0]


@pytest.mark.parametrize("content", [b"sample_id,decision,new_label\n1,dr\xf6p,\n", b"\x89\x93" * 40, b"a" * 200_000])
def test_a_file_that_is_no_text_or_has_endless_cells_is_one_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "decisions.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"`path` to be a CSV file, got .*decisions\.csv: .*save it as CSV in UTF-8"):
        apply_decisions([("a", 0)], tmp_path / "decisions.csv")


def test_an_answer_and_a_decision_that_say_the_same_are_applied_together(tmp_path: Path) -> None:
    (tmp_path / "answers.csv").write_text("sample_id,label,answer,new_label\n0,0,wrong,1\n1,1,right,\n2,2,wrong,\n")
    path = written(tmp_path, "0,0,,relabel,1,\n1,1,,keep,,\n2,2,,drop,,\n")
    items = [("a", 0), ("b", 1), ("c", 2)]
    assert list(apply_decisions(items, [tmp_path / "answers.csv", path])) == [("a", 1), ("b", 1)]
    path = written(tmp_path, "0,0,,relabel,2,\n")
    with pytest.raises(ValueError, match=r"0 in line 2 of .*decisions\.csv than in line 2 of .*answers\.csv"):
        apply_decisions(items, [tmp_path / "answers.csv", path])


def test_answers_of_an_audit_are_applied(tmp_path: Path) -> None:
    rows = "0,0,right,\n1,1,wrong,\n2,2,wrong,0\n3,0,unsure,\n4,1,,\n"
    decided = apply_decisions(
        [("a", 0), ("b", 1), ("c", 2), ("d", 0), ("e", 1)],
        written(tmp_path, rows, "sample_id,label,answer,new_label\n"),
    )
    assert list(decided) == [("a", 0), ("c", 0), ("d", 0), ("e", 1)]
    with pytest.raises(ValueError, match=r"`answer` to be one of right, wrong, unsure, got 'maybe' in line 2"):
        apply_decisions([("a", 0)], written(tmp_path, "0,maybe\n", "sample_id,answer\n"))


@pytest.mark.parametrize("source", [len, [len]])
def test_sources_that_are_neither_files_nor_tables_are_an_error(source: Any) -> None:
    with pytest.raises(
        TypeError, match=r"`path` to be a CSV file or a table, got an object of the class builtin.*Pass"
    ):
        apply_decisions([("a", 0)], source)


def test_answers_and_decisions_may_name_classes(tmp_path: Path) -> None:
    data, header = Named([("a", 0), ("b", 1), ("c", 0)]), "sample_id,label,answer,new_label\n"
    assert list(apply_decisions(data, written(tmp_path, "0,cat,wrong,dog\n1,1,right,\n", header))) == [
        ("a", 1), ("b", 1), ("c", 0)
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"line 2: sample 0 has the label 0, not dog"):
        apply_decisions(data, written(tmp_path, "0,dog,right,\n", header))
    with pytest.raises(ValueError, match=r"`new_label` to be a class in \[0, 3\) or its name, got 'cow' in line 2"):
        apply_decisions(data, written(tmp_path, "0,0,wrong,cow\n", header))


def test_a_number_is_a_class_where_names_are_numbers_too(tmp_path: Path) -> None:
    class Numbered(list[Any]):
        classes = ("1", "10", "2")

    path = written(tmp_path, "0,1,wrong,2\n", "sample_id,label,answer,new_label\n")
    assert list(apply_decisions(Numbered([("a", 1)]), path)) == [("a", 2)]


def test_answers_with_names_follow_their_files_after_one_was_moved(tmp_path: Path) -> None:
    path = written(tmp_path, "1,0,wrong,,0.1,b.png\n", "sample_id,label,answer,new_label,probability,name\n")
    assert list(apply_decisions(Folder([("b.png", 0), ("c.png", 0)]), path)) == [("c.png", 0)]


SEVERAL = "sample_id,label,decision,new_label,new_label_name\n"


def test_samples_with_several_labels_get_all_their_new_ones(tmp_path: Path) -> None:
    rows = '0,0 1,relabel,0 2,"cat, <b>,""x"""\n1,none,relabel,1,dog\n2,0 1 2,relabel,none,no label\n3,1,keep,,\n'
    data = Named([("a", [1, 1, 0]), ("b", [0, 0, 0]), ("c", [1, 1, 1]), ("d", [0, 1, 0])])
    decided = apply_decisions(data, written(tmp_path, rows, header=SEVERAL))
    assert list(decided) == [("a", [1, 0, 1]), ("b", [0, 1, 0]), ("c", [0, 0, 0]), ("d", [0, 1, 0])]
    assert decided.relabelled == {0: "0 2", 1: 1, 2: "none"}


@pytest.mark.parametrize(
    ("label", "row", "message"),
    [
        ([1, 0, 0], "0,1,relabel,2,", "line 2: sample 0 has the label 0, not 1$"),
        ([1, 0], "0,0,relabel,0 2,", "line 2: sample 0 has 2 labels, and cannot get '0 2'$"),
        (0, "0,0,relabel,0 2,", "line 2: sample 0 has one class, and cannot get '0 2'$"),
        (0, "0,0,relabel,none,", "line 2: sample 0 has one class, and cannot get 'none'$"),
        ([1, 0, 0], '0,0,relabel,0 3,"cat, dog"', "to be a class in .0, 3. or its name, got '0 3' in line 2"),
        ([1, 0, 0], "0,0,relabel,0 1,cat", "`new_label_name` of class 0 1 to be 'cat, dog', got 'cat' in line 2"),
    ],
)
def test_labels_that_do_not_fit_several_are_refused(tmp_path: Path, label: Any, row: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        apply_decisions(Named([("a", label)]), written(tmp_path, row + "\n", header=SEVERAL))


@pytest.mark.parametrize(
    ("label", "text"),
    [
        (1234567.0, "1.23457e+06"),  # as plans write it
        (1234567, "1234570"),  # as a spreadsheet does
        (1.0000049999, "1.00001"),  # 1.0000050068 as float32, which the record keeps
        (-1.5, "'-1.5"),
        (-0.0, "-0"),
        (float("nan"), "nan"),
        ([0, 1, 0], "1.0"),
    ],
)
def test_numbers_are_the_same_however_they_are_written(tmp_path: Path, label: Any, text: str) -> None:
    answers = written(tmp_path, f"0,{text},wrong\n", header="sample_id,label,answer\n")
    assert list(apply_decisions([("a", label), ("b", 0)], answers)) == [("b", 0)]


@pytest.mark.parametrize(("label", "text"), [(1234567.0, "1.23458e+06"), (1.0, "1.00001"), (100_000, "100001")])
def test_numbers_that_differ_in_six_digits_are_refused(tmp_path: Path, label: Any, text: str) -> None:
    answers = written(tmp_path, f"0,{text},wrong\n", header="sample_id,label,answer\n")
    with pytest.raises(ValueError, match="line 2: sample 0 has the label"):
        apply_decisions([("a", label)], answers)


@pytest.mark.parametrize("label", [[0, 4, 2], [[0, 1], [1, 1]], [[0, 1, 3]]], ids=["tags", "mask", "classes"])
def test_labels_that_are_not_0_or_1_each_are_refused(tmp_path: Path, label: Any) -> None:
    with pytest.raises(
        ValueError, match=r"label of sample 0 to be a class, or 0 or 1 for each .* numbers up to \d\. Cor"
    ):
        apply_decisions([("a", label)], written(tmp_path, "0,,relabel,1,\n", header=SEVERAL))
