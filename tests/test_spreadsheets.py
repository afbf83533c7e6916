"""Files that a spreadsheet or pandas has saved again say the same to an audit and to ``apply_decisions``."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from dynalens import Record, apply_decisions, audit, audit_plan
from dynalens.datasets import RelabelledDataset
from test_audit import population, record_of

N = 30
SAVED: dict[str, Callable[[str], str]] = {
    "semicolons": lambda text: text.replace(",", ";"),
    "semicolons and decimal commas": lambda text: text.replace(",", ";").replace("0.", "0,"),
    "tabs": lambda text: text.replace(",", "\t"),
    "a mark of the byte order": lambda text: "\ufeff" + text,
    "ends of lines": lambda text: text.replace("\n", "\r\n"),
    "capital letters": lambda text: (
        text.replace("answer", "Answer").replace("right", "RIGHT").replace("wrong", "Wrong")
    ),
    "spaces": lambda text: text.replace(",", " , "),
    "fractions": lambda text: text.replace("\n1,1,", "\n1.0,1.0,").replace("wrong,2", "wrong,2.0"),
    "empty cells and lines": lambda text: text.replace("\n", ",,\n") + ",,,,\n\n",
}


class Labelled(list[tuple[str, int]]):
    classes = ("cat", "dog", "eel")


def record() -> Record:
    return record_of(population(N)[0], class_names=list(Labelled.classes))


def data() -> Labelled:
    return Labelled([(f"sample {i}", i % 3) for i in range(N)])


def answers(wrong: int = 1) -> str:
    """Return answers about all samples as the page writes them; the label of one is wrong and should be an eel."""
    words = ["wrong,2" if i == wrong else "right," for i in range(N)]
    return "sample_id,label,answer,new_label,probability\n" + "".join(
        f"{i},{i % 3},{word},1.0\n" for i, word in enumerate(words)
    )


@pytest.mark.parametrize("form", SAVED)
def test_a_file_that_a_spreadsheet_saved_says_the_same(form: str, tmp_path: Path) -> None:
    file = tmp_path / "answers.csv"
    file.write_bytes(SAVED[form](answers()).encode())
    audited = audit(record(), file)
    assert (audited.right, audited.wrong, dict(audited.right_labels)) == (N - 1, 1, {1: [2]})
    decided = apply_decisions(data(), file)
    assert (len(decided), decided.relabelled) == (N, {1: 2})


def test_answers_of_pandas_keep_their_numbers_though_it_writes_them_with_a_fraction(tmp_path: Path) -> None:
    plan = audit_plan(record(), N)
    is_wrong = plan["sample_id"] == 1
    table = plan.assign(answer=is_wrong.map({True: "wrong", False: "right"}), new_label=is_wrong.map({True: 2}))
    table.to_csv(tmp_path / "answers.csv", index=False)
    assert "wrong,2.0" in (tmp_path / "answers.csv").read_text()
    for source in (tmp_path / "answers.csv", table):
        assert audit(record(), source).right_labels == {1: [2]}
        assert apply_decisions(data(), source).relabelled == {1: 2}


@pytest.mark.parametrize("again", ["1.0", " 1", "1"])
def test_a_sample_twice_is_an_error_however_its_id_is_written(again: str, tmp_path: Path) -> None:
    file = tmp_path / "answers.csv"
    file.write_text(answers() + f"{again},1,right,,1.0\n")
    with pytest.raises(ValueError, match="Expected one answer for each sample, got several for sample 1"):
        audit(record(), file)
    with pytest.raises(ValueError, match="Expected all rows of a sample to say the same"):
        apply_decisions(data(), file)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (answers().encode("utf-16"), "a CSV file, got .*utf-8.* save it as CSV in UTF-8"),
        (
            answers().replace("29,2,right,", "29,2,right,,a,b").encode(),
            "a CSV file, got .*line 31 has 7 cells instead of 5",
        ),
        (answers().replace("probability", "answer").encode(), "a CSV file, got .*several columns are named answer"),
        (b"", r"the columns sample_id.*got \[\]"),
    ],
)
def test_a_file_that_cannot_be_read_is_an_error_that_says_what_to_do(
    content: bytes, words: str, tmp_path: Path
) -> None:
    (tmp_path / "answers.csv").write_bytes(content)
    with pytest.raises(ValueError, match=f"Expected `answers` to (be|have) {words}"):
        audit(record(), tmp_path / "answers.csv")
    with pytest.raises(ValueError, match=f"Expected `path` to (be|have) {words}"):
        apply_decisions(data(), tmp_path / "answers.csv")


def test_answers_of_several_rounds_are_applied_at_once(tmp_path: Path) -> None:
    header, *rows = answers().splitlines(keepends=True)
    files = [tmp_path / "answers.csv", tmp_path / "answers_2.csv"]
    files[0].write_text(header + "".join(rows[:15]))
    files[1].write_text(header + "".join(rows[15:]).replace("20,2,right", "20,2,wrong"))
    decided = apply_decisions(data(), files)
    assert (decided.relabelled, set(range(N)) - set(decided.indices)) == ({1: 2}, {20})
    assert isinstance(record().relabelled(data(), answers=files), RelabelledDataset)
    files[1].write_text(header + rows[0].replace("right", "wrong"))
    with pytest.raises(ValueError, match=r"another label or decision for sample 0 in line 2 of .*answers_2\.csv"):
        apply_decisions(data(), files)


def test_a_table_without_a_decision_gives_a_warning() -> None:
    table = pd.DataFrame({"sample_id": [0], "answer": [None]})
    with pytest.warns(UserWarning, match="Expected a decision in the table, got none"):
        assert len(apply_decisions(data(), table)) == N
