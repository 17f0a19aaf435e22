"""The live page in headless Chromium: it attacks as the Python package does, by mouse, keyboard, pen and without motion."""

import base64
import importlib.util
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from browsing import serve
from PIL import Image

from distill import data, experiments, jsma, models, plans, training
from distill.attacks.jsma import Status, _Ranker

BOOK = Path(__file__).parents[2] / "book"
LIVE = BOOK / "extra" / "live"
PAGE = "/book/live.html"
ENDED = "/^(SUCCESS|BUDGET|NO_VALID_PAIR|ZERO_GRADIENT):/"


def received(name, folder=LIVE):
    """What a data script hands to the page."""
    said, value = json.loads("[" + (folder / f"{name}.js").read_text().removeprefix("distillLive.receive(").removesuffix(");\n") + "]")
    assert said == name
    return value


def model(name, folder=LIVE):
    """The network out of the page's own file."""
    flat = torch.from_numpy(np.frombuffer(base64.b64decode(received(name, folder)), "<f2").astype(np.float32))
    network = models.build("mnist")
    tensors = flat.split([tensor.numel() for tensor in network.state_dict().values()])
    network.load_state_dict({key: t.view(old.shape) for (key, old), t in zip(network.state_dict().items(), tensors, strict=True)})
    return network.eval()


def shown(folder=LIVE):
    pixels = np.frombuffer(base64.b64decode(received("data", folder)["pixels"]), np.uint8)
    return torch.from_numpy(pixels / np.float32(255)).view(-1, 1, 28, 28)


def module(path):
    spec = importlib.util.spec_from_file_location(f"book_{path.stem}", path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


page_data = module(BOOK / "live.py")
NETWORKS = {network["name"]: network for network in received("data")["networks"]}


def make_site(folder):
    """The chapter's own HTML in an otherwise empty page, in the places that the book gives both."""
    shutil.copytree(LIVE, folder / "live", dirs_exist_ok=True)
    (body,) = re.findall(r"```\{raw\} html\n(.*?)```", (BOOK / "live.md").read_text(), re.DOTALL)
    (folder / "book").mkdir(exist_ok=True)
    head = '<!doctype html><html lang="en"><meta charset="utf-8"><title>live</title><link rel="icon" href="data:,">'
    head += "<style>:root { --pst-color-accent: purple; --pst-color-primary: blue }</style>"  # the theme's, as far as they are tested
    (folder / "book" / "live.html").write_text(head + '<meta name="viewport" content="width=device-width">' + body)
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return make_site(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def address(site):
    with serve(site) as host:
        yield host + PAGE


@pytest.fixture()
def visit(browser, address):
    """Opens the page; at the end no error was printed and nothing but the page's own host was asked."""
    opened, wrong = [], []

    def note(message):
        if message.type in ("error", "warning"):
            wrong.append(message.text)

    def visit(url=address, **options):
        page = browser.new_page(**options)
        opened.append(page)
        page.on("console", note)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: request.url.startswith((url.rsplit("/book/", 1)[0], "data:")) or wrong.append(request.url))
        page.goto(url)
        wait(page, "/Press Play/")
        return page

    yield visit
    for page in opened:
        page.close()
    assert wrong == []


def part(page, name):
    return page.locator(f'[data-live="{name}"]')


def wait(page, pattern):
    page.wait_for_function(f"{pattern}.test(document.querySelector('[data-live=status]').textContent)")


# --- the same attack ------------------------------------------------------------------------------------


CASES = [  # every network and output on the first image of classes 0, 1 and 2, towards the class five above
    (name, output, temperature, 2 * label, label + 5)
    for name in NETWORKS
    for output, temperature in (("softmax", 1.0), ("log_softmax", 1.0), ("softmax", 20.0 if name == "plain" else float(name[1:])))
    for label in range(3)
]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_page_attacks_as_python_does(name, visit):
    page, network, x = visit(), model(name), shown()
    for _, output, temperature, image, target in (case for case in CASES if case[0] == name):
        case = {"network": name, "image": image, "target": target, "output": output, "temperature": temperature}
        there = page.evaluate("given => window.distillLive.run(given)", case)
        here = jsma(network, x[image : image + 1], torch.tensor([target]), output=output, temperature=temperature, trace=True)
        assert there["status"] == Status(int(here.status)).name, case
        assert len(there["trace"]) == int(here.features_changed), case
        assert there["trace"] == here.trace[0, : len(there["trace"])].tolist(), case
        assert torch.equal(torch.tensor(there["pixels"]), here.adversarial.flatten()), case


def cell(row, column):
    return 28 * row + column


def test_equal_derivatives_go_to_the_lowest_pixel(visit, tmp_path):
    """A network of single paths with nothing to round: what it does on a black image can be said beforehand."""
    network = models.build("mnist").eval()
    with torch.no_grad():
        for name, tensor in network.named_parameters():
            tensor.zero_()
            if tensor.ndim == 4:
                tensor[0, 0, 1, 1] = 1  # channel 0 goes through the middle of each filter
            if tensor.ndim == 2 and name != "last.weight":
                tensor[:16, :16] = torch.eye(16)  # the 4 x 4 values that the second max-pool leaves
        network.features[0].bias[0] = 1  # so that nothing is at the ReLU's corner
        network.last.weight[1, :16] = 0.25
        network.last.bias[0] = 100
    black = data.Images(torch.zeros(10, 1, 28, 28), torch.arange(10), "black", "made here", "")
    site = make_site(tmp_path)
    page_data.write(site / "live", [({"name": "plain", "label": "paths", "accuracy": 0.0, "record": "none"}, network)], black)
    # All four values of a window are equal, so both pools pass their first one: every fourth pixel, 16 in all.
    first = [cell(4 * row + 6, 4 * column + 6) for row in range(4) for column in range(4)]
    with serve(site) as host:
        page = visit(host + PAGE)
        for output, target, status, trace in (
            ("log_softmax", 1, "ZERO_GRADIENT", first),  # 16 pixels raise class 1, in their order; then none moves it
            ("softmax", 1, "ZERO_GRADIENT", first),  # its probability exp(-96) is below float32's normal numbers, not 0
            ("log_softmax", 2, "NO_VALID_PAIR", []),  # more of class 1 is less of class 2
            ("softmax", 2, "ZERO_GRADIENT", []),  # its derivative exp(-96) * exp(-100) is 0 in float32
        ):
            case = {"network": "plain", "image": 0, "target": target, "output": output}
            there = page.evaluate("given => window.distillLive.run(given)", case)
            here = jsma(network, black.x[:1], torch.tensor([target]), output=output, trace=True)
            assert (there["status"], there["trace"]) == (Status(int(here.status)).name, here.trace[0, : len(there["trace"])].tolist())
            assert (there["status"], there["trace"]) == (status, trace)


def test_the_page_gets_the_networks_of_the_store(tmp_path, data_root, monkeypatch):
    monkeypatch.setenv("DISTILL_DATA", str(data_root))
    monkeypatch.setitem(training.RECIPES, ("smoke", "mnist"), training.Recipe("smoke", 0.1, "adam", 3e-3, 0.9, dropout=0.0, batch_size=64))
    store, folder = tmp_path / "store", tmp_path / "live"
    with pytest.raises(experiments.RunError, match="there are no weights"):
        page_data.export(folder, profile="smoke", store=store)
    assert not folder.exists()
    context = experiments.Context.new(store, say=lambda text: None)
    assert experiments.ensure(plans.plan("smoke", "mnist-5k", ["none", 20], stages=["train"]), context) == []
    page_data.export(folder, profile="smoke", store=store)
    networks = received("data", folder)["networks"]
    assert [network["name"] for network in networks] == ["plain", "t20"]  # the profile has no T=100
    test = data.load("mnist-5k", train=False)
    for network, temperature in zip(networks, ("none", 20), strict=True):
        trained = experiments.zoo("mnist-5k", temperature, profile="smoke", store=store)
        for mine, its in zip(model(network["name"], folder).state_dict().values(), trained.state_dict().values(), strict=True):
            assert torch.equal(mine, its)
        assert network["accuracy"] == pytest.approx(training.accuracy(trained, test.x, test.y).float().mean().item())
    about = received("data", folder)["images"]
    assert [image["label"] for image in about] == [label for label in range(10) for _ in range(2)]
    index = [image["index"] for image in about]
    assert test.y[index].tolist() == [image["label"] for image in about]
    assert all(int((test.y[:i] == label).sum()) in (0, 1) for i, label in zip(index, test.y[index], strict=True))
    assert torch.equal(shown(folder), test.x[index])


def test_weights_that_float16_does_not_hold_are_refused(tmp_path):
    network = models.build("mnist")
    about = {"name": "plain", "label": "", "accuracy": 0.0, "record": "somewhere"}
    with pytest.raises(ValueError, match="weights of somewhere are not float16"):
        page_data.write(tmp_path, [(about, network)], data.Images(torch.zeros(1, 1, 28, 28), torch.zeros(1), "", "", ""))


# --- what a reader does ---------------------------------------------------------------------------------


def number(text):
    return float(text.replace("\u2212", "-").split()[0])


@pytest.mark.parametrize("name", NETWORKS)
def test_probabilities_and_the_largest_derivative_are_shown(name, visit):
    page = visit()
    part(page, "network").select_option(name)
    part(page, "output").select_option("log_softmax")
    page.get_by_label("2, test image").first.check()
    part(page, "target").select_option("7")
    wait(page, "/make it a 7/")
    x, target = shown()[4:5], torch.tensor([7])
    network = model(name)
    wanted = network(x).softmax(1)[0].tolist()
    rows = part(page, "bars").locator("tr").all()
    for row, probability in zip(rows, wanted, strict=True):
        assert number(row.locator("td").nth(1).inner_text()) == pytest.approx(probability, rel=0.05, abs=5e-5 if probability > 1e-4 else 0)
    answer = int(np.argmax(wanted))
    assert [row.locator("td").nth(2).inner_text() for row in rows] == [{answer: "answer", 7: "target"}.get(c, "") for c in range(10)]
    assert part(page, "target").locator("option:disabled").all_inner_texts() == [str(answer)]
    for option, output, temperature in (("log_softmax", "log_softmax", 1.0), ("softmax_t", "softmax", 50.0)):
        part(page, "output").select_option(option)
        if option == "softmax_t":
            part(page, "temperature").fill("50")
            part(page, "temperature").blur()
        _, alpha, _ = _Ranker(network, output, temperature, 1, False)(x, target)
        steepest = alpha[x.flatten(1) < 1].abs().max().log10().item()
        assert number(part(page, "gradient").inner_text()) == pytest.approx(steepest, abs=0.051)


def test_a_network_that_arrives_late_does_not_displace_the_one_chosen_since(visit):
    page, late = visit(), []
    first, last = next(iter(NETWORKS)), list(NETWORKS)[-1]
    page.route(f"**/{last}.js", lambda route: late.append(route))
    part(page, "network").select_option(last)
    part(page, "target").select_option("4")
    assert part(page, "status").inner_text() == "Loading the network."
    part(page, "network").select_option(first)
    wait(page, "/make it a 4/")
    before = part(page, "bars").inner_text()
    with page.expect_response(f"**/{last}.js"):
        late[0].continue_()
    page.wait_for_timeout(500)  # several times what decoding it and a first pass take
    assert part(page, "bars").inner_text() == before


def test_with_the_keyboard_alone(visit):
    """From the first digit to the end of two attacks on the last network, softmax and then its logarithm."""
    page = visit()
    press, focused = page.keyboard.press, lambda: page.evaluate("document.activeElement.dataset.live ?? document.activeElement.value")
    seen = []

    def tab(key="Tab"):
        press(key)
        seen.append(focused())
        style = "getComputedStyle(document.activeElement.matches('[type=radio]:not([value=own])') ? document.activeElement.nextSibling : document.activeElement)"
        assert page.evaluate(f"{style}.outlineStyle") == "solid" and page.evaluate(f"parseFloat({style}.outlineWidth)") >= 2

    tab()
    press("ArrowRight")
    press("ArrowRight")  # the first digit of class 1
    tab()
    press("End")  # the last network
    tab()
    press("6")
    tab()
    tab()
    assert seen == ["0", "network", "target", "output", "play"]
    name = list(NETWORKS)[-1]
    for output in ("softmax", "log_softmax"):
        wait(page, "/make it a 6/")
        press("Enter")
        wait(page, ENDED)
        assert focused() == "play"
        there = part(page, "status").inner_text()
        here = jsma(model(name), shown()[2:3], torch.tensor([6]), output=output)
        assert there.startswith(Status(int(here.status)).name + ":")
        assert part(page, "changed").inner_text() == f"{int(here.features_changed)} of at most 112"
        if there.startswith("ZERO_GRADIENT"):
            assert "every derivative the computer sees is exactly zero: the softmax has saturated in float32" in there
            assert "choose log-softmax" in there and part(page, "gradient").inner_text() == "exactly 0"
        if output == "softmax":
            tab("Shift+Tab")
            press("ArrowDown")
            tab()


def test_step_pause_and_reset(visit):
    page = visit()
    for changed in (2, 4):
        part(page, "step").click()
        assert part(page, "changed").inner_text().startswith(f"{changed} of")
        assert re.fullmatch(
            rf"Step {changed // 2}: row \d+, column \d+ and row \d+, column \d+ set to white\.", part(page, "status").inner_text()
        )
    part(page, "play").click()
    page.wait_for_function("parseInt(document.querySelector('[data-live=changed]').textContent) >= 8")
    part(page, "play").click()
    paused = part(page, "changed").inner_text()
    assert part(page, "status").inner_text() == f"Paused after {paused.split()[0]} pixels."
    page.wait_for_timeout(500)  # three steps of a player that has not paused
    assert part(page, "changed").inner_text() == paused
    part(page, "reset").click()
    wait(page, "/Press Play/")
    assert part(page, "changed").inner_text().startswith("0 of")


@pytest.mark.parametrize(("motion", "frames"), [("reduce", 1), ("no-preference", None)])
def test_a_reader_who_wants_no_motion_sees_the_end_alone(motion, frames, visit):
    page = visit(reduced_motion=motion)
    page.evaluate("""() => {
        window.frames_seen = 0;
        new MutationObserver(() => { window.frames_seen += 1; }).observe(document.querySelector("[data-live=changed]"), {childList: true});
    }""")
    part(page, "play").click()
    wait(page, ENDED)
    steps = int(part(page, "changed").inner_text().split()[0]) // 2
    assert steps > 3
    assert page.evaluate("window.frames_seen") == (frames or steps)


def ink(page):
    """The drawing as it is on the canvas: brightness of each pixel's middle, (28, 28)."""
    shot = part(page, "image").evaluate("canvas => canvas.toDataURL()")
    picture = np.array(Image.open(io.BytesIO(base64.b64decode(shot.partition(",")[2]))).convert("L"))
    size = len(picture) // 28
    return picture[size // 2 :: size, size // 2 :: size]


@pytest.mark.parametrize("by", ["mouse", "finger", "keys"])
def test_a_digit_drawn_by(by, visit):
    page = visit(viewport={"width": 390, "height": 844}, has_touch=by == "finger")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.get_by_label("draw my own").check()
    wait(page, "/Press Play/")
    assert ink(page).max() == 0
    canvas = part(page, "image")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    x, top, bottom = box["x"] + box["width"] / 2 + 2, box["y"] + box["height"] / 4, box["y"] + box["height"] * 3 / 4
    if by == "mouse":
        page.mouse.move(x, top)
        page.mouse.down()
        page.mouse.move(x, bottom, steps=3)
        page.mouse.up()
    elif by == "finger":
        touch = page.context.new_cdp_session(page)
        for kind, points in (("touchStart", [top]), ("touchMove", [(top + bottom) / 2]), ("touchMove", [bottom]), ("touchEnd", [])):
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y} for y in points]})
    else:
        canvas.focus()
        for _ in range(7):
            page.keyboard.press("ArrowUp")
        for _ in range(14):
            page.keyboard.press("Shift+ArrowDown")
        page.keyboard.press("Tab")  # the cursor is no part of the drawing
        part(page, "reset").click()
    wait(page, "/Press Play/")
    drawn = ink(page)
    assert (drawn[8:21, 14] == 255).all()  # an upright stroke in the middle
    assert drawn[:5].max() == drawn[24:].max() == drawn[:, :11].max() == drawn[:, 18:].max() == 0
    part(page, "step").click()
    assert part(page, "changed").inner_text().startswith("2 of")
    part(page, "clear").click()
    wait(page, "/Press Play/")
    assert ink(page).max() == 0


def test_opened_from_a_file(visit, site):
    page = visit((site / "book" / "live.html").as_uri())
    part(page, "step").click()
    assert part(page, "changed").inner_text().startswith("2 of")


def test_a_network_that_is_not_there_is_named(browser, tmp_path):
    site = make_site(tmp_path)
    last = list(NETWORKS)[-1]
    (site / "live" / f"{last}.js").unlink()
    with serve(site) as host:
        page = browser.new_page()
        page.goto(host + PAGE)
        part(page, "network").select_option(last)
        wait(page, "/could not be loaded/")
        assert f"{last}.js" in part(page, "status").inner_text()
        part(page, "network").select_option(next(iter(NETWORKS)))  # the page goes on
        wait(page, "/Press Play/")
        page.close()


@pytest.mark.parametrize("temperature", ["", "0", "-1", "2000"])
def test_a_temperature_out_of_range_is_refused(temperature, visit):
    page = visit()
    part(page, "output").select_option("softmax_t")
    part(page, "temperature").fill(temperature)
    part(page, "temperature").blur()
    wait(page, "/T must be a number from 1 to 1000/")
    part(page, "play").click()
    part(page, "step").click()
    assert part(page, "status").inner_text() == "T must be a number from 1 to 1000."
