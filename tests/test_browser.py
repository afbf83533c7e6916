"""In a real browser: TensorBoard shows a run, and what is decided on the page is what the dataset then has.

Needs chromium, its driver and selenium; without them the group is skipped. Screenshots go to ``screenshots/``.
"""

import functools
import importlib.util
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pytorch_lightning.loggers import TensorBoardLogger
from torch.utils.data import TensorDataset

from dynalens import AttributionMonitor, LayerMonitor, TrainingDynamicsMonitor, apply_decisions, load_record
from dynalens.auditing import StratifiedRate, interval, stratified_rate
from dynalens.record import RecordFolder
from dynalens.report import write_audit, write_report
from dynalens.text import percent
from test_cli import run as recorded
from test_units import MultiLabel, several_labels
from training import N, dataset, fit, images, labels, loader

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(
        not (BROWSER and DRIVER and importlib.util.find_spec("selenium")),
        reason="needs chromium, chromedriver and the extra `browser`",
    ),
]
SCREENSHOTS = Path(__file__).parents[1] / "screenshots"
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1400,1300",
)  # fmt: skip
LAPTOP = {"width": 1366, "height": 620, "deviceScaleFactor": 1, "mobile": False}  # a window of a small screen
EVIL = "<script>document.title = 'owned'</script>"
NAMES = [EVIL, '"><b>bold</b>', "plain"]
# TensorBoard's pages are built of shadow trees.
ALL = """
const found = [];
(function walk(root) {
  for (const node of root.querySelectorAll("*")) {
    if (node.matches(arguments_selector)) found.push(node);
    if (node.shadowRoot) walk(node.shadowRoot);
  }
})(document);
return found"""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER or ""
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()


@pytest.fixture
def browser(chromium: Any, tmp_path: Path) -> Any:
    """The one browser in its one window, with downloads of the test's own and no storage of another."""
    first, *others = chromium.window_handles
    for window in others:
        chromium.switch_to.window(window)
        chromium.close()
    chromium.switch_to.window(first)
    chromium.get("about:blank")
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    downloads = {"behavior": "allow", "downloadPath": str(tmp_path / "downloads")}
    chromium.execute_cdp_cmd("Browser.setDownloadBehavior", downloads)
    chromium.execute_cdp_cmd("Storage.clearDataForOrigin", {"origin": "file://", "storageTypes": "all"})
    chromium.get_log("browser")  # it is emptied by reading
    return chromium


def waited(condition: Callable[[], Any], seconds: float = 60) -> Any:
    """The first true value of the condition."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.3)
    raise AssertionError("Waited in vain.")


def text_of_lines(area: Any, number: int) -> str:
    """Return the text of an area once it has so many lines, else ""."""
    text = str(area.get_property("value"))
    return text if len(text.splitlines()) >= number else ""


def shot(browser: Any, name: str) -> None:
    SCREENSHOTS.mkdir(exist_ok=True)
    browser.save_screenshot(str(SCREENSHOTS / f"{name}.png"))


def everywhere(browser: Any, selector: str, result: str) -> Any:
    return browser.execute_script(ALL.replace("arguments_selector", repr(selector)) + result)


class Named(TensorDataset):
    classes = NAMES


def train_set() -> Named:
    return Named(images(), labels())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    fit(
        folder, TrainingDynamicsMonitor(features="net.2", projector_every_n_epochs=11),
        AttributionMonitor(num_samples=3, steps=5),
        LayerMonitor(
            layer="net.0", weights=True, feature_maps=2, top_inputs=3, maximise="classes", maximise_steps=20,
            every_n_epochs=6, max_overhead=None,
        ),
        val=lambda: loader(shuffle=False), data=lambda: loader(train_set()), max_epochs=12,
        logger=TensorBoardLogger(folder, name="logs"),
    )  # fmt: skip
    return folder / "logs" / "version_0"


@pytest.fixture(scope="module")
def tensorboard(run: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(run.parent), "--port", "0"]
    with subprocess.Popen([*command, "--load_fast", "false"], stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        address = next(
            (m.group() for line in server.stderr if (m := re.search(r"http://localhost:\d+", line))), None
        )  # fmt: skip
        assert address
        yield address
        server.terminate()


def test_tensorboard_shows_the_pictures_of_a_run(browser: Any, tensorboard: str) -> None:
    browser.get(f"{tensorboard}/#images")

    def shown() -> list[list[int]]:
        sizes = everywhere(browser, "img", ".map(image => [image.naturalWidth, image.clientWidth])")
        return [size for size in sizes if size[0] >= 350]

    waited(lambda: len(shown()) >= 8)
    # A card is 350 wide, and pictures are made for that: a whole number of their pixels to each of the card.
    assert {width for _, width in shown()} == {350}
    assert all(natural % 350 == 0 for natural, _ in shown())
    text = " ".join(everywhere(browser, "*", ".map(node => node.textContent || '')"))
    for tag in ("charts/data_map", "charts/data_map"):
        assert f"dynalens/{tag}" in text
    shot(browser, "tensorboard_images")


def test_tensorboard_shows_what_a_layer_computes(browser: Any, tensorboard: str) -> None:
    browser.get(f"{tensorboard}/#images&tagFilter=layers")
    named = ("weights", "feature_maps", "top_inputs", "maximised")

    def missing() -> list[str]:
        text = " ".join(everywhere(browser, "*", ".map(node => node.textContent || '')"))
        return [tag for tag in named if f"dynalens/layers/{tag}" not in text]

    waited(lambda: not missing())
    sizes = "img", ".map(image => [image.naturalWidth, image.clientWidth])"
    assert waited(lambda: [size for size in everywhere(browser, *sizes) if size == [700, 350]])
    shot(browser, "tensorboard_layers")


def test_the_projector_shows_the_features_with_their_labels(browser: Any, tensorboard: str) -> None:
    browser.get(f"{tensorboard}/#projector")
    for _ in range(2):  # a frame of TensorBoard, and the projector's own in it
        browser.switch_to.frame(waited(lambda: browser.find_elements("css selector", "iframe"))[0])

    def shown() -> str:
        return str(browser.execute_script("return document.body.innerText")) + " ".join(
            everywhere(browser, "*", ".map(node => node.textContent || '')")
        )

    waited(lambda: re.search(rf"Points:\s*{N}\b", shown()))
    text = shown()
    assert re.search(r"Dimension:\s*64\b", text)
    assert re.search(r"2\s*tensors\s*found", text)
    assert "metadata.tsv" in text
    for column in ("sample", "label", "suggested", "score", "forgetting_events"):
        assert column in text
    time.sleep(2)  # the cloud turns into its place
    shot(browser, "tensorboard_projector")


def test_tensorboard_draws_the_scalars_together(browser: Any, tensorboard: str) -> None:
    browser.get(f"{tensorboard}/#custom_scalars")

    def titles() -> str:
        return " ".join(everywhere(browser, "*", ".map(node => node.textContent || '')"))

    waited(lambda: "grad_cam: deletion" in titles() and "samples forgotten in the epoch" in titles())
    lines = waited(lambda: everywhere(browser, "vz-line-chart2, line-chart, .line-chart", ".length"))
    assert lines >= 3
    shot(browser, "tensorboard_custom_scalars")


def keys(browser: Any, *pressed: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    for key in pressed:
        ActionChains(browser).send_keys(key).perform()


def decided_are(browser: Any, number: int) -> None:
    waited(lambda: f", {number} decided" in browser.find_element("id", "count").text)


def chosen(browser: Any, identity: str, value: str) -> None:
    from selenium.webdriver.support.select import Select

    Select(browser.find_element("id", identity)).select_by_value(value)


def shown_ids(browser: Any) -> list[str]:
    found = browser.execute_script("return [...document.querySelectorAll('.card')].map(card => card.dataset.id)")
    assert isinstance(found, list)
    return found


def test_names_of_files_and_a_chosen_number_of_the_matrix_are_legible(browser: Any, tmp_path: Path) -> None:
    folder = recorded(tmp_path)
    names = [f"/data/pictures/of/the/year/photograph_of_a_holiday_{i:05d}.png" for i in range(120)]
    RecordFolder(folder / "dynalens").write_names(names)
    browser.get(write_report(load_record(folder), tmp_path / "report.html").as_uri())
    first = waited(lambda: browser.find_elements("css selector", ".card .file"))[0]
    assert re.match(r"photograp…oliday_\d{5}\.png . /data", first.text)
    # The name of the file itself ends before its line does.
    assert browser.execute_script(
        """const line = arguments[0], range = document.createRange();
        range.setStart(line.firstChild, 0); range.setEnd(line.firstChild, line.textContent.indexOf(".png") + 4);
        return range.getBoundingClientRect().right <= line.getBoundingClientRect().right""", first,
    )  # fmt: skip
    keys(browser, "k")  # the stripe of a decision takes room, too
    for card in browser.find_elements("css selector", ".card")[:3]:
        heights = browser.execute_script("return [arguments[0].scrollHeight, arguments[0].clientHeight]", card)
        assert heights[0] == heights[1]
    browser.find_element("css selector", "#pairs summary").click()
    cell = browser.find_elements("css selector", "#matrix button")[0]
    colour = cell.value_of_css_property("color")
    cell.click()
    assert cell.get_attribute("aria-pressed") == "true"
    assert cell.value_of_css_property("color") == colour


def test_decisions_of_the_page_are_those_of_the_dataset(browser: Any, run: Path, tmp_path: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    record, data = load_record(run), train_set()
    worst = record.table().sort_values("rank")
    page = write_report(record, tmp_path / "report.html", dataset=data)
    browser.get(page.as_uri())
    assert shown_ids(browser) == [str(i) for i in worst.index]
    assert waited(lambda: browser.execute_script("return document.querySelector('.picture img')?.naturalWidth")) == 6

    # Names are text: the script did not run and no element came of them.
    assert browser.title.startswith("dynalens")
    assert browser.execute_script("return document.querySelectorAll('.card b, .card script').length") == 0
    assert EVIL in browser.execute_script("return document.body.innerText")

    # Keep, relabel to suggested, drop, relabel to a class that is chosen by part of its name; then think again.
    for number, key in enumerate("kSd", start=1):  # capital letters are the same keys
        keys(browser, key)
        decided_are(browser, number)
    keys(browser, "r")
    waited(lambda: browser.find_element("id", "choose").is_displayed())
    keys(browser, *"plain")
    waited(lambda: browser.execute_script("return document.getElementById('class').value") == "2")
    keys(browser, Keys.ENTER)
    decided_are(browser, 4)
    keys(browser, "d")
    decided_are(browser, 5)
    kept, suggested, dropped, other, undecided = (int(i) for i in worst.index[:5])
    assert current(browser) != str(undecided)
    keys(browser, "u")
    decided_are(browser, 4)
    assert current(browser) == str(undecided)
    shot(browser, "report")

    # The filter by pair, in the list and in the matrix, and by probability.
    pair = worst[["label", "suggested"]].iloc[0]
    key, same = f"{pair['label']}>{pair['suggested']}", (worst["label"] == pair["label"])
    same = worst[same & (worst["suggested"] == pair["suggested"])]
    chosen(browser, "pair", key)
    assert shown_ids(browser) == [str(i) for i in same.index]
    chosen(browser, "pair", "")
    browser.find_element("css selector", "#pairs summary").click()
    cell = browser.find_element("css selector", f"#matrix button[data-pair='{key}']")
    assert cell.text == str(len(same))
    cell.click()
    assert shown_ids(browser) == [str(i) for i in same.index]
    cell.click()
    least = round(float(worst["wrong_probability"].iloc[2]), 4)
    into = browser.find_element("id", "probability")
    into.send_keys(f"{100 * least:.2f}", Keys.TAB)
    assert shown_ids(browser) == [str(i) for i in worst.index[worst["wrong_probability"].round(4) >= least]]
    into.clear()
    into.send_keys(Keys.TAB)
    chosen(browser, "state", "decided")
    assert shown_ids(browser) == [str(i) for i in (kept, suggested, dropped, other)]
    chosen(browser, "state", "flagged")
    assert shown_ids(browser) == [str(i) for i in worst.index[worst["flagged"]]]

    # The browser keeps decisions; the file has them.
    def refreshed() -> bool:
        browser.refresh()  # the browser writes its storage a moment after the page did
        return "4 decided" in browser.find_element("id", "count").text

    assert waited(refreshed)
    browser.find_element("id", "download").click()
    file = tmp_path / "downloads" / "decisions.csv"
    waited(lambda: file.exists() and file.stat().st_size)
    decided = apply_decisions(data, file)
    given = labels().tolist()
    expected = {i: given[i] for i in range(N) if i != dropped}
    expected |= {suggested: worst["suggested"].to_dict()[suggested], other: 2}
    assert {i: int(decided[position][1]) for position, i in enumerate(decided.indices)} == expected
    assert undecided in decided.indices
    assert data.tensors[1].tolist() == given
    assert browser.get_log("browser") == []


def current(browser: Any) -> str:
    return str(browser.execute_script("return document.querySelector('.card.current').dataset.id"))


def test_a_key_acts_on_the_card_whose_button_has_the_focus_and_a_second_press_takes_back(
    browser: Any, run: Path, tmp_path: Path
) -> None:
    browser.get(write_report(load_record(run), tmp_path / "report.html").as_uri())
    third = shown_ids(browser)[2]
    button = f".card[data-id='{third}'] button[data-key='k']"
    waited(lambda: browser.execute_script(f'return !!document.querySelector("{button}")'))
    browser.execute_script(f'document.querySelector("{button}").focus()')
    keys(browser, "d")
    decided_are(browser, 1)
    classes = f"return document.querySelector(\".card[data-id='{third}']\").className"
    assert "drop" in browser.execute_script(classes)
    browser.find_element("css selector", f".card[data-id='{third}'] button[data-key='d']").click()
    decided_are(browser, 0)
    names = "return [...document.querySelectorAll('button, img, select, input')].filter(node => !(node.ariaLabel ||"
    names += " node.alt || node.textContent.trim() || node.labels?.length)).length"
    assert browser.execute_script(names) == 0


def test_the_larger_view_shows_one_sample_and_takes_the_same_keys(browser: Any, run: Path, tmp_path: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    data = [(f"a review of film {i}", 0) for i in range(N)]
    browser.get(write_report(load_record(run), tmp_path / "report.html", dataset=data).as_uri())
    first, second = shown_ids(browser)[:2]
    keys(browser, "v")
    view = browser.find_element("id", "large")
    assert f"a review of film {first}" in view.text
    keys(browser, "k")
    decided_are(browser, 1)
    assert f"a review of film {second}" in view.text
    shot(browser, "report_large")
    keys(browser, "r", *"no such class", Keys.ENTER)
    assert browser.find_element("id", "choose").is_displayed()
    browser.find_element("css selector", "#choose [value=cancel]").click()  # Escape may close both dialogs
    keys(browser, "v")
    assert not view.is_displayed()


def test_decisions_are_read_back_and_two_tabs_lose_none_of_each_other(browser: Any, run: Path, tmp_path: Path) -> None:
    page = write_report(load_record(run), tmp_path / "report.html").as_uri()
    browser.get(page)
    ids = shown_ids(browser)
    label = browser.execute_script("return cards[0].label")
    file = tmp_path / "earlier.csv"
    other = f"{ids[2]},{browser.execute_script('return cards[2].label') + 1},drop,,"
    file.write_text(f"sample_id,label,decision,new_label,name\n{ids[0]},{label},relabel,2,\n{other}\nx,0,keep,,\n")
    browser.find_element("id", "read").send_keys(str(file))
    decided_are(browser, 1)
    assert "1 decision read, 2 rows did not fit this page" in browser.find_element("id", "count").text
    tab = browser.current_window_handle
    browser.switch_to.new_window("tab")
    browser.get(page)
    decided_are(browser, 1)
    browser.execute_script("moveTo(boxes[1]); act('k')")
    browser.switch_to.window(tab)
    browser.execute_script("moveTo(boxes[3]); act('d')")
    decided_are(browser, 3)


def test_decisions_and_answers_of_an_earlier_run_follow_the_names_of_their_samples(
    browser: Any, run: Path, tmp_path: Path
) -> None:
    record = load_record(run)
    record.sample_names = [f"{i}.png" for i in range(N - 2)] + ["same.png", "same.png"]
    label = record.statistics.label.tolist()
    earlier = tmp_path / "earlier.csv"  # sample 0 was the one that is sample 3 now
    rows = ((0, label[3], "3.png"), (2, label[2], "gone.png"), (N - 1, label[-1], "same.png"))
    lines = [f"{sample},{given},drop,right,{name}" for sample, given, name in rows]
    earlier.write_text("\n".join(["sample_id,label,decision,answer,name", *lines]))
    for page in (write_report(record, tmp_path / "report.html"), write_audit(record, tmp_path / "audit.html", n=N)):
        browser.get(page.as_uri())
        browser.find_element("id", "read").send_keys(str(earlier))
        ids = f"return [...{'decisions' if page.stem == 'report' else 'answers'}.map.keys()]"
        waited(functools.partial(browser.execute_script, ids))
        assert sorted(browser.execute_script(ids)) == sorted(["3", str(N - 1)])


def test_five_thousand_suspects_are_drawn_as_they_come_into_view(browser: Any, run: Path, tmp_path: Path) -> None:
    page = write_report(load_record(run), tmp_path / "report.html")
    text = page.read_text(encoding="utf-8")
    # As many cards as a large record has, each with its own id.
    loop = "const one = content.cards.slice(); content.cards = Array.from({ length: 5000 }, (_, i) => "
    loop += "({ ...one[i % one.length], id: String(i) }));\nconst { cards } = content;"
    page.write_text(text.replace("const { cards } = content;", loop), encoding="utf-8")
    browser.get(page.as_uri())
    assert len(shown_ids(browser)) == 5000
    filled = "return document.querySelectorAll('.card .names').length"
    assert 0 < waited(lambda: browser.execute_script(filled)) < 200
    quartile = browser.execute_async_script(
        """
        const done = arguments[0], end = document.body.scrollHeight, times = [];
        let last = performance.now(), frame = 0;
        requestAnimationFrame(function step(now) {
          times.push(now - last);
          last = now;
          window.scrollTo(0, end * (++frame) / 60);
          frame < 60 ? requestAnimationFrame(step) : done(times.sort((a, b) => a - b)[15]);
        });
        """
    )
    # Milliseconds; about 17 on an idle machine. Other programs delay single frames, but not three of four.
    assert quartile < 250
    assert browser.execute_script(filled) < 200
    last = browser.execute_script("return document.querySelector('.card:last-child .names') !== null")
    assert last or waited(lambda: browser.execute_script("return !!document.querySelector('.card:last-child .names')"))


def strata_of(numbers: np.random.Generator) -> StratifiedRate:
    """Answers in a few strata, as a person gives them."""
    size = numbers.integers(2, 500, numbers.integers(1, 12))
    asked = np.minimum(size, numbers.integers(1, 9, len(size)))
    score = np.sort(numbers.normal(0, 3, len(size)))[::-1]
    return StratifiedRate(size, asked, numbers.binomial(asked, 1 / (1 + np.exp(-score))), score)


def test_the_page_of_an_audit_estimates_the_rate_as_python_does(browser: Any, run: Path, tmp_path: Path) -> None:
    browser.get(write_audit(load_record(run), tmp_path / "audit.html", n=20).as_uri())
    numbers = np.random.default_rng(0)
    for _ in range(40):
        strata = strata_of(numbers)
        lists = {name: getattr(strata, name).tolist() for name in ("size", "asked", "wrong", "score")}
        rate, low, high = browser.execute_script(
            "return [stratifiedRate(arguments[0]), ...rateInterval(arguments[0])]", lists
        )
        assert rate == pytest.approx(stratified_rate(strata), abs=1e-9)
        assert [low, high] == pytest.approx([float(end) for end in interval(strata)], abs=1e-6)


def test_twenty_samples_are_answered_by_keyboard_and_their_file_is_an_audit(
    browser: Any, run: Path, tmp_path: Path
) -> None:
    from selenium.webdriver.common.keys import Keys

    record = load_record(run)
    page = write_audit(record, tmp_path / "audit.html", n=20, dataset=train_set()).as_uri()
    browser.get(page)
    last = "last"  # what the run suggests: before the answer it would lead a person
    assert browser.find_element("id", last).text == ""
    assert browser.find_element("id", "count").text == "sample 1 of 20, 0 answered"
    for number in range(20):
        keys(browser, "yYyu"[number % 4] if number % 5 else "n")
        if number % 5 == 0:
            waited(lambda: browser.find_element("id", "search").is_displayed())
            assert browser.find_element("id", last).text == ""  # it would lead the choice of a class
            keys(browser, *(["plain", Keys.ENTER] if number == 0 else [Keys.ESCAPE]))
    waited(lambda: ", 20 answered" in browser.find_element("id", "count").text)
    assert "the run suggests" in browser.find_element("id", last).text
    shot(browser, "audit")
    doubt = f"There are only 20 answers: rate and flags can be far off. Answer all {N} samples."
    assert browser.find_element("id", "doubt").text == doubt
    shown = browser.find_element("id", "rate").text
    browser.refresh()
    waited(lambda: ", 20 answered" in browser.find_element("id", "count").text)
    browser.find_element("id", "download").click()
    file = tmp_path / "downloads" / "answers.csv"
    waited(lambda: file.exists() and file.stat().st_size)

    audited = record.audit(file)
    rate = audited.noise_rate
    assert audited.right + audited.wrong + audited.unsure == 20
    assert (audited.wrong, rate.calibrated) == (4, True)
    ends = f"wrong labels: {percent(rate.value)} (95 % interval {percent(rate.low)} to {percent(rate.high)})"
    assert shown == ends

    # A page with nothing in its storage reads the file back.
    browser.execute_script("localStorage.clear()")
    browser.get(page)
    waited(lambda: ", 0 answered" in browser.find_element("id", "count").text)
    browser.find_element("id", "read").send_keys(str(file))
    waited(lambda: ", 20 answered" in browser.find_element("id", "count").text)
    assert "20 answers read." in browser.find_element("id", "message").text
    assert browser.find_element("id", "rate").text == shown
    assert browser.get_log("browser") == []


def test_pages_keep_what_was_entered_each_time_that_they_are_opened_again(
    browser: Any, run: Path, tmp_path: Path
) -> None:
    # Chromium hid what was stored from one in ten pages or more that asked for it before their first frame, and from
    # one in a hundred that had only asked for its events.
    record = load_record(run)
    audit = write_audit(record, tmp_path / "audit.html", n=6, dataset=train_set()).as_uri()
    report = write_report(record, tmp_path / "report.html", dataset=train_set()).as_uri()

    def is_shown(count: str) -> bool:
        return count in browser.find_element("id", "count").text

    for page, key, count in ((audit, "y", ", 2 answered"), (report, "k", ", 2 decided")):
        browser.get(page)
        keys(browser, key, key)
        for _ in range(100):
            waited(functools.partial(is_shown, count), seconds=10)
            browser.refresh()


def test_a_page_of_a_second_round_forgets_its_own_answers_only(browser: Any, run: Path, tmp_path: Path) -> None:
    record = load_record(run)
    first = write_audit(record, tmp_path / "first.html", n=4, dataset=train_set()).as_uri()
    answers = record.audit_plan(4).assign(answer="right")
    second = write_audit(record, tmp_path / "second.html", n=4, dataset=train_set(), answers=answers).as_uri()
    browser.get(first)
    keys(browser, *"yyyy")
    browser.get(second)
    keys(browser, "u")
    browser.find_element("id", "clear").click()
    dialog = browser.switch_to.alert
    assert dialog.text == "Forget all 1 answer?"
    dialog.accept()
    assert browser.find_element("id", "count").text == "sample 1 of 4, 0 answered"
    browser.get(first)
    waited(lambda: ", 4 answered" in browser.find_element("id", "count").text)


def test_a_key_in_the_first_frame_replaces_nothing_that_is_stored(browser: Any, run: Path, tmp_path: Path) -> None:
    page = write_audit(load_record(run), tmp_path / "audit.html", n=6, dataset=train_set())
    browser.get(page.as_uri())
    keys(browser, "u", "y")
    waited(lambda: browser.execute_script("return answers.isStored"))
    early = "answer('right'); move(1); answer('right'); answers.open(show)"
    page.write_text(page.read_text("utf-8").replace("answers.open(show)", early), "utf-8")
    browser.get(page.as_uri())
    waited(lambda: ", 3 answered" in browser.find_element("id", "count").text)
    assert browser.execute_script("return answers.get(cards[0].id).answer") == "unsure"


@pytest.mark.parametrize(("width", "height"), [(720, 700), (840, 500), (1400, 620), (390, 800)])
def test_the_bar_of_the_report_covers_no_part_of_the_current_card(
    browser: Any, run: Path, tmp_path: Path, width: int, height: int
) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", LAPTOP | {"width": width, "height": height})
    browser.get(write_report(load_record(run), tmp_path / "report.html", dataset=train_set()).as_uri())
    keys(browser, *[Keys.ARROW_DOWN] * 4, *[Keys.ARROW_UP] * 2)
    places = """const bar = document.getElementById("bar").getBoundingClientRect();
        const card = document.querySelector(".card.current").getBoundingClientRect();
        return [bar.bottom, card.top, card.bottom, innerHeight]"""
    bar, top, bottom, window = browser.execute_script(places)
    assert bar <= top < bottom <= window
    room = "return document.documentElement.style.scrollPaddingTop"
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", LAPTOP | {"width": 1000, "height": 560})
    waited(lambda: browser.execute_script(room) == "")
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", LAPTOP | {"width": 1000, "height": 700})
    waited(lambda: browser.execute_script(room) != "")


def test_a_page_reads_answers_that_a_person_wrote_into_a_spreadsheet(browser: Any, run: Path, tmp_path: Path) -> None:
    record = load_record(run)
    page = write_audit(record, tmp_path / "audit.html", n=6, dataset=train_set()).as_uri()
    plan = record.audit_plan(6)
    plan["label"] = [NAMES[label] for label in plan["label"]]
    is_plain = plan["label"] == "plain"
    plan["new_label"] = np.where(is_plain, "0.0", "plain")  # a number as pandas writes it, or a name
    plan.loc[5, "new_label"] = "no class"
    plan.assign(answer="Wrong").to_csv(tmp_path / "written.csv", index=False, sep=";")
    browser.get(page)
    browser.find_element("id", "read").send_keys(str(tmp_path / "written.csv"))
    waited(lambda: ", 5 answered" in browser.find_element("id", "count").text)
    assert browser.find_element("id", "message").text == "5 answers read, 1 row did not fit this page."
    browser.find_element("id", "download").click()
    file = tmp_path / "downloads" / "answers.csv"
    waited(lambda: file.exists() and file.stat().st_size)
    rows = plan["sample_id"][:5]
    assert record.audit(file).right_labels == {i: [0 if is_plain[k] else 2] for k, i in enumerate(rows)}
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_pages_read_cells_as_python_does(browser: Any, run: Path, tmp_path: Path, end: str) -> None:
    record = load_record(run)
    plan = record.audit_plan(6)
    first, second, third, fourth = plan["sample_id"][:4]
    right = [(label + 1) % len(NAMES) for label in plan["label"]]
    rows = (
        f'"{first}.0"; Wrong;Relabel;"{right[0]},0"', f" {second} ;wrong ; relabel; {right[1]} ",
        f"{third};right;keep;", f"{third};;drop;", f"{fourth};;;", ";;;",
    )  # fmt: skip
    file = tmp_path / "written.csv"
    file.write_bytes(end.join(["\ufeffSample_ID;Answer;Decision;New_label", *rows, ""]).encode())
    browser.get(write_audit(record, tmp_path / "audit.html", n=6, dataset=train_set()).as_uri())
    browser.find_element("id", "read").send_keys(str(file))
    assert waited(lambda: browser.find_element("id", "message").text) == "3 answers read."
    answers = browser.execute_script("return Object.fromEntries(answers.map)")
    audited = record.audit(file)
    assert audited.right_labels == {int(i): [answer["to"]] for i, answer in answers.items() if "to" in answer}
    assert (audited.right, audited.wrong) == (1, 2)
    browser.get(write_report(record, tmp_path / "report.html", dataset=train_set()).as_uri())
    browser.find_element("id", "read").send_keys(str(file))
    message = "3 decisions read, 1 row did not fit this page."  # a second row about the same sample
    waited(lambda: message in browser.find_element("id", "count").text)
    decisions = browser.execute_script("return [...decisions.map].map(([i, { decision, to }]) => [i, decision, to])")
    relabelled = [[str(i), "relabel", right[k]] for k, i in enumerate([first, second])]
    assert decisions == [*relabelled, [str(third), "keep", None]]


def test_right_labels_of_a_sample_with_several_are_read_back_as_they_were_written(browser: Any, tmp_path: Path) -> None:
    fit(tmp_path / "run", TrainingDynamicsMonitor(), model=MultiLabel(), data=lambda: loader(several_labels()))
    record = load_record(tmp_path / "run")
    page = write_audit(record, tmp_path / "audit.html", n=4, dataset=several_labels()).as_uri()
    plan = record.audit_plan(4)
    plan["new_label"] = np.where(plan["label"] == "0 2", "1", "0 2")
    plan.assign(answer="wrong").to_csv(tmp_path / "written.csv", index=False)
    browser.get(page)
    browser.find_element("id", "read").send_keys(str(tmp_path / "written.csv"))
    waited(lambda: ", 4 answered" in browser.find_element("id", "count").text)
    browser.find_element("id", "download").click()
    file = tmp_path / "downloads" / "answers.csv"
    waited(lambda: file.exists() and file.stat().st_size)
    assert record.audit(file).right_labels == record.audit(tmp_path / "written.csv").right_labels


def test_percentages_of_a_page_are_rounded_as_pythons(browser: Any, run: Path, tmp_path: Path) -> None:
    browser.get(write_audit(load_record(run), tmp_path / "audit.html", n=2).as_uri())
    fractions = [part / 400 * (1 + error) for part in range(401) for error in (-1e-15, 0, 1e-15)]
    shown = browser.execute_script("return arguments[0].map(value => [percent(value, 1), percent(value)])", fractions)
    assert shown == [[percent(fraction), percent(fraction, 0)] for fraction in fractions]


def test_a_window_without_storage_offers_the_answers_and_decisions_as_text(
    browser: Any, run: Path, tmp_path: Path
) -> None:
    record = load_record(run)
    for write, name, key in ((write_audit, "answers.csv", "y"), (write_report, "decisions.csv", "d")):
        page = write(record, tmp_path / "page.html", dataset=train_set())
        frame = tmp_path / "frame.html"  # as the preview of a notebook server, which also blocks downloads
        frame.write_text(f"<iframe sandbox='allow-scripts' src='{page.name}' width=1200 height=900></iframe>")
        browser.get(frame.as_uri())
        browser.switch_to.frame(browser.find_element("tag name", "iframe"))
        copy = waited(lambda: browser.find_element("css selector", "#unstored textarea"))
        assert f"into {name} before you leave" in browser.find_element("id", "unstored").text
        assert len(copy.get_property("value").splitlines()) == 1
        browser.find_element("tag name", "h1").click()  # keys go to the frame
        keys(browser, key, key)
        (tmp_path / name).write_text(
            waited(functools.partial(text_of_lines, copy, 3))
        )  # keys reach another process's frame later
        shot(browser, f"unstored-{name.partition('.')[0]}")
        browser.switch_to.default_content()
    answers, decisions = (
        record.audit(tmp_path / "answers.csv"),
        apply_decisions(train_set(), tmp_path / "decisions.csv"),
    )
    assert (answers.right, len(decisions)) == (2, N - 2)


def hold(browser: Any, key: str, times: int) -> None:
    """Hold a letter down: the keyboard repeats it."""
    event = {"key": key, "code": f"Key{key.upper()}", "windowsVirtualKeyCode": ord(key.upper()), "text": key}
    for repeat in range(times):
        browser.execute_cdp_cmd("Input.dispatchKeyEvent", {"type": "keyDown", "autoRepeat": repeat > 0, **event})
    browser.execute_cdp_cmd("Input.dispatchKeyEvent", {"type": "keyUp", **event, "text": ""})


def test_a_key_that_is_held_down_counts_once(browser: Any, run: Path, tmp_path: Path) -> None:
    record = load_record(run)
    browser.get(write_audit(record, tmp_path / "audit.html", n=6, dataset=train_set()).as_uri())
    hold(browser, "y", 4)
    assert browser.find_element("id", "count").text == "sample 2 of 6, 1 answered"
    hold(browser, "n", 4)  # opens the field in which the right class is looked for
    assert browser.find_element("id", "search").get_property("value") == ""
    browser.get(write_report(record, tmp_path / "report.html", dataset=train_set()).as_uri())
    hold(browser, "k", 4)
    decided_are(browser, 1)


def test_a_right_class_is_marked_when_it_is_asked_for_again_and_can_be_taken_back(
    browser: Any, run: Path, tmp_path: Path
) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.get(write_audit(load_record(run), tmp_path / "audit.html", n=6, dataset=train_set()).as_uri())
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", LAPTOP)
    given = browser.execute_script("return cards[0].label")
    first = next(k for k in range(len(NAMES)) if k != given)

    def answer_is(expected: dict[str, Any]) -> None:
        assert browser.execute_script("return answers.get(cards[0].id)") == expected

    keys(browser, "n", Keys.ARROW_DOWN, Keys.ARROW_DOWN)  # from the field into the list, to its first class
    bottom = "return document.getElementById('class').getBoundingClientRect().bottom <= innerHeight"
    assert browser.execute_script(bottom)
    keys(browser, Keys.ENTER)
    answer_is({"answer": "wrong", "to": first})
    keys(browser, Keys.ARROW_LEFT, "n", Keys.ENTER)
    answer_is({"answer": "wrong", "to": first})
    keys(browser, Keys.ARROW_LEFT, "n", *"no such class", Keys.ENTER)
    assert browser.find_element("id", "search").is_displayed()
    keys(browser, Keys.ESCAPE)
    answer_is({"answer": "wrong"})
    assert "you said wrong;" in browser.find_element("id", "last").text
    assert browser.execute_script("return document.getElementById('top').getBoundingClientRect().top >= 0")


def test_keys_answer_after_a_filter_was_set_or_a_file_was_chosen(browser: Any, run: Path, tmp_path: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    record = load_record(run)
    browser.get(write_report(record, tmp_path / "report.html", dataset=train_set()).as_uri())
    field = browser.find_element("id", "probability")
    field.click()
    keys(browser, "1", Keys.ENTER, "k")
    decided_are(browser, 1)
    set_by_mouse = """const list = document.getElementById("state");
        list.focus({ focusVisible: false });
        list.value = "undecided";
        list.dispatchEvent(new Event("change", { bubbles: true }))"""
    browser.execute_script(set_by_mouse)
    keys(browser, "d")  # in the list, it would choose "decided"
    decided_are(browser, 2)
    assert browser.find_element("id", "state").get_property("value") == "undecided"
    browser.get(write_audit(record, tmp_path / "audit.html", n=6, dataset=train_set()).as_uri())
    browser.execute_script("document.getElementById('read').focus()")
    keys(browser, "y")
    assert browser.find_element("id", "count").text == "sample 2 of 6, 1 answered"


def test_a_page_loses_no_answer_when_the_storage_of_the_browser_is_full(
    browser: Any, run: Path, tmp_path: Path
) -> None:
    page = write_audit(load_record(run), tmp_path / "audit.html", n=6, dataset=train_set()).as_uri()
    browser.get(page)
    keys(browser, "y")
    waited(lambda: browser.execute_script("return answers.isStored"))
    fill = """for (let size = 2 ** 22, i = 0; size >= 1; i++)
        try { localStorage.setItem("other" + i, "x".repeat(size)) } catch (error) { size /= 2 }"""
    browser.execute_script(fill)
    keys(browser, "u", "y", "y")
    assert browser.find_element("id", "count").text == "sample 5 of 6, 4 answered"
    copy = browser.find_element("css selector", "#unstored textarea")
    assert copy.is_displayed()
    assert len(text_of_lines(copy, 5).splitlines()) == 5
    browser.execute_script("for (let i = 0; i < 40; i++) localStorage.removeItem('other' + i)")
    keys(browser, "y")
    assert not copy.is_displayed()
    assert len(browser.execute_script("return JSON.parse(localStorage.getItem(content.run))")) == 5


@pytest.mark.parametrize(("samples", "enough"), [(40, 30), (N, N)])
def test_the_page_doubts_the_rate_until_there_are_enough_answers_of_all_rounds(
    browser: Any, tmp_path: Path, samples: int, enough: int
) -> None:
    fit(tmp_path / "run", TrainingDynamicsMonitor(), data=lambda: loader(dataset(samples)))
    record = load_record(tmp_path / "run")
    first = record.audit_plan(enough - 2).assign(answer="right")
    browser.get(write_audit(record, tmp_path / "audit.html", n=2, answers=first).as_uri())

    def doubt_after(answers: str) -> str:
        keys(browser, *answers)
        return str(browser.find_element("id", "doubt").text)

    assert doubt_after("").startswith(f"There are only {enough - 2} answers: ")
    assert doubt_after("y").startswith(f"There are only {enough - 1} answers: ")
    assert doubt_after("u") == ""
    assert browser.find_element("id", "rate").text.startswith("wrong labels: ")


def test_all_labels_of_a_sample_are_answered_at_once(browser: Any, tmp_path: Path) -> None:
    monitor = TrainingDynamicsMonitor(class_names=NAMES)
    fit(tmp_path / "run", monitor, model=MultiLabel(), data=lambda: loader(several_labels()))
    record = load_record(tmp_path / "run")
    page = write_audit(record, tmp_path / "audit.html", n=5, dataset=several_labels()).as_uri()
    browser.get(page)
    assert browser.find_element("id", "ask").text == "Are all labels of each sample right, and is none missing?"
    first = int(record.audit_plan(5)["sample_id"].iloc[0])
    given = ", ".join(NAMES[k] for k in range(3) if first >> k & 1) or "no label"
    assert browser.find_element("id", "question").text == f"Are these all the labels that it should have: {given}?"
    keys(browser, *"nynuy")  # no class is asked for after a wrong one
    waited(lambda: ", 5 answered" in browser.find_element("id", "count").text)
    assert "the run is least sure of" in browser.find_element("id", "last").text
    shown = browser.find_element("id", "rate").text
    shot(browser, "audit-of-several-labels")
    browser.find_element("id", "download").click()
    file = tmp_path / "downloads" / "answers.csv"
    waited(lambda: file.exists() and file.stat().st_size)
    audited = record.audit(file)
    rate = audited.noise_rate
    assert (audited.right, audited.wrong, audited.unsure) == (2, 2, 1)
    ends = f"{percent(rate.value)} (95 % interval {percent(rate.low)} to {percent(rate.high)})"
    assert shown == f"samples with a wrong label: {ends}"
    browser.execute_script("localStorage.clear()")
    browser.get(page)
    browser.find_element("id", "read").send_keys(str(file))
    waited(lambda: ", 5 answered" in browser.find_element("id", "count").text)
    assert browser.get_log("browser") == []


def test_the_doubted_one_of_several_labels_is_corrected_with_a_key(browser: Any, tmp_path: Path) -> None:
    monitor = TrainingDynamicsMonitor(class_names=NAMES)
    fit(tmp_path / "run", monitor, model=MultiLabel(), data=lambda: loader(several_labels()))
    page = write_report(load_record(tmp_path / "run"), tmp_path / "report.html", dataset=several_labels()).as_uri()
    browser.get(page)
    waited(lambda: "decided" in browser.find_element("id", "count").text)
    keys(browser, *"skd")
    waited(lambda: ", 3 decided" in browser.find_element("id", "count").text)
    shot(browser, "report-of-several-labels")
    browser.find_element("id", "download").click()
    file = tmp_path / "downloads" / "decisions.csv"
    waited(lambda: file.exists() and file.stat().st_size)
    first, second, third = monitor.suspects(3).index
    decided = apply_decisions(several_labels(), file)
    unit, suggested = monitor.suspects(1)[["unit", "suggested"]].iloc[0]
    expected = several_labels()[first][1].clone()
    expected[unit] = suggested
    assert decided.indices == [i for i in range(N) if i != third]
    assert decided[decided.indices.index(first)][1].tolist() == expected.tolist()
    assert decided[decided.indices.index(second)][1].tolist() == several_labels()[second][1].tolist()
    browser.execute_script("localStorage.clear()")
    browser.get(page)
    browser.find_element("id", "read").send_keys(str(file))
    waited(lambda: ", 3 decided" in browser.find_element("id", "count").text)
    assert browser.get_log("browser") == []
