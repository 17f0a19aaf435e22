"""The attack against searches and models whose answer is known."""

import dataclasses
import subprocess
import sys

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from distill import Status, best_pair, jsma, models
from distill.attacks import jsma as module
from distill.attacks import saliency


def dense(alpha, beta, usable):
    """Algorithm 3 as it is printed: every pair, row by row."""
    out = []
    for a, b, u in zip(alpha.double(), beta.double(), usable, strict=True):
        best = (0, 1, 0.0)
        for p in range(len(a)):
            for q in range(p + 1, len(a)):
                up, down = (a[p] + a[q]).item(), (b[p] + b[q]).item()
                if u[p] and u[q] and up > 0 and down < 0 and -up * down > best[2]:
                    best = (p, q, -up * down)
        out.append(best)
    return out


def rows(pair):
    return list(zip(pair.first.tolist(), pair.second.tolist(), pair.score.tolist(), strict=True))


small = st.integers(-3, 3).map(float)  # few values: many ties and collinear features
wide = st.floats(-1e3, 1e3, width=32)


@st.composite
def saliencies(draw, values):
    n, count = draw(st.integers(2, 9)), draw(st.integers(1, 4))
    table = [[draw(values) for _ in range(n)] for _ in range(2 * count)]
    mask = [[draw(st.booleans()) for _ in range(n)] for _ in range(count)]
    return torch.tensor(table[:count]), torch.tensor(table[count:]), torch.tensor(mask)


@settings(max_examples=1500, deadline=None)
@given(saliencies(small))
def test_pair_search_equals_dense_search_with_ties(case):
    assert rows(best_pair(*case)) == dense(*case)


@settings(max_examples=1000, deadline=None)
@given(saliencies(wide))
def test_pair_search_equals_dense_search_in_score(case):
    alpha, beta, usable = case
    found = best_pair(*case)
    assert found.score.tolist() == [score for _, _, score in dense(*case)]
    for row, (p, q, score) in enumerate(rows(found)):
        assert score == 0 or (p < q and usable[row, p] and usable[row, q])


@settings(max_examples=500, deadline=None)
@given(saliencies(small))
def test_for_softmax_the_pair_is_the_top_two(case):
    alpha, _, usable = case
    assert rows(saliency.top_two(alpha, usable)) == dense(alpha, -alpha, usable)


def test_collinear_features_are_all_candidates():
    n = 60
    alpha = torch.arange(n, dtype=torch.float32)[None] - 50
    beta = alpha - 30  # the larger alpha, the larger beta: no feature dominates another
    usable = torch.ones(1, n, dtype=torch.bool)
    assert saliency.candidates(alpha, beta, usable)[1] == n
    assert rows(best_pair(alpha, beta, usable)) == dense(alpha, beta, usable)


class Linear(nn.Module):
    """Two classes whose logits differ by weights . x + bias, so the best order is that of the weights."""

    def __init__(self, weights, bias=-10.0):
        super().__init__()
        self.layer = nn.Linear(len(weights), 2)
        with torch.no_grad():
            self.layer.weight[:] = torch.stack([-torch.tensor(weights), torch.tensor(weights)]) / 2
            self.layer.bias[:] = torch.tensor([0.0, bias])

    def forward(self, x):
        return self.layer(x.flatten(1))


@pytest.mark.parametrize("output", module.OUTPUTS)
def test_linear_model_features_are_taken_in_order_of_weight(output):
    model = Linear([3.0, 1.0, 5.0, -2.0, 4.0, 2.0], bias=-13.0)
    found = jsma(model, torch.zeros(1, 6), torch.tensor([1]), max_features=6, output=output)
    # 5 + 4 = 9, then 3 + 2 = 14 > 13: four features, never the harmful one
    assert found.adversarial.tolist() == [[1.0, 0.0, 1.0, 0.0, 1.0, 1.0]]
    assert found.status.tolist() == [Status.SUCCESS]
    assert found.features_changed.tolist() == [4]
    assert found.iterations.tolist() == [2]
    backward = 2 if output == "logits" else 1
    assert found.passes.tolist() == [3 * (1 + backward) + 1]  # two steps, one look that sees the success, one verdict


def test_statuses():
    budget = jsma(Linear([1.0] * 6), torch.zeros(1, 6), torch.tensor([1]), max_features=3)
    assert (budget.status.tolist(), budget.features_changed.tolist()) == ([Status.BUDGET], [2])
    nothing_helps = jsma(Linear([-1.0] * 4), torch.zeros(1, 4), torch.tensor([1]), max_features=4)
    assert nothing_helps.status.tolist() == [Status.NO_VALID_PAIR]
    one_left = jsma(Linear([1.0] * 3), torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([1]), max_features=3)
    assert one_left.status.tolist() == [Status.NO_VALID_PAIR]
    there_already = jsma(Linear([1.0] * 3, bias=5.0), torch.zeros(1, 3), torch.tensor([1]), max_features=3)
    assert (there_already.status.tolist(), there_already.features_changed.tolist()) == ([Status.SUCCESS], [0])


@pytest.mark.parametrize("output", module.OUTPUTS)
def test_zero_gradient_leaves_the_images_untouched(output):
    model = Linear([0.0] * 6)
    x = torch.rand(3, 6)
    found = jsma(model, x, torch.ones(3, dtype=torch.int64), max_features=6, output=output)
    assert found.status.tolist() == [Status.ZERO_GRADIENT] * 3
    assert torch.equal(found.adversarial, x)
    assert not found.success.any()


def test_saturated_softmax_underflows_in_float32_and_log_softmax_does_not():
    model = Linear([60.0, 50.0, 40.0, 30.0], bias=-150.0)  # softmax of class 1 is e^-150
    arguments = (model, torch.zeros(1, 4), torch.tensor([1]))
    assert jsma(*arguments, max_features=4).status.tolist() == [Status.ZERO_GRADIENT]
    assert jsma(*arguments, max_features=4, temperature=100.0).status.tolist() == [Status.SUCCESS]
    exact = jsma(*arguments, max_features=4, output="log_softmax")
    in_float64 = jsma(*arguments, max_features=4, precision="float64")
    assert exact.status.tolist() == in_float64.status.tolist() == [Status.SUCCESS]
    assert torch.equal(exact.adversarial, in_float64.adversarial)


def small_network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 5)).eval()


def attack_everything(**options):
    model = small_network()
    x = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    targets = torch.arange(12) % 5
    return x, jsma(model, x, targets, max_features=8, **options)


@pytest.mark.parametrize("output", module.OUTPUTS)
def test_batch_equals_single_and_every_batch_size(output):
    _, whole = attack_everything(output=output, batch_size=12)
    assert whole.success.any() and not whole.success.all()  # otherwise this test shows little
    for size in (1, 3, 5):
        _, part = attack_everything(output=output, batch_size=size)
        for name in ("success", "features_changed", "iterations", "status", "passes"):
            assert torch.equal(getattr(whole, name), getattr(part, name)), (size, name)
        assert torch.allclose(whole.adversarial, part.adversarial)


@pytest.mark.parametrize("output", module.OUTPUTS)
@pytest.mark.parametrize("budget", [1, 2, 5, 20])
def test_budget_and_bookkeeping(output, budget):
    model = small_network()
    x = torch.rand(10, 1, 8, 8)
    targets = torch.arange(10) % 5
    found = jsma(model, x, targets, max_features=budget, output=output)
    changed = (found.adversarial != x).flatten(1).sum(1)
    assert torch.equal(changed, found.features_changed)
    assert (changed <= budget).all()
    assert torch.equal(found.adversarial[found.adversarial != x], torch.ones(int(changed.sum())))
    assert torch.equal(found.success, model(found.adversarial).argmax(1) == targets)
    assert torch.equal(found.success, found.status == Status.SUCCESS)


@pytest.mark.parametrize("output", module.OUTPUTS)
def test_increase_and_decrease_mirror_each_other(output):
    class Mirrored(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model(-x)

    model, x, targets = small_network(), torch.rand(8, 1, 8, 8), torch.arange(8) % 5
    up = jsma(model, x, targets, max_features=16, output=output)
    down = jsma(Mirrored(model), -x, targets, max_features=16, value=-1.0, direction="decrease", output=output)
    assert torch.equal(up.adversarial, -down.adversarial)
    assert torch.equal(up.status, down.status)


def test_features_at_or_beyond_the_value_are_not_usable():
    model = Linear([9.0, 1.0, 1.0, 8.0], bias=-1.5)
    x = torch.tensor([[1.0, 0.0, 0.0, 1.2]])
    model.layer.bias.data[1] = -20.0
    found = jsma(model, x, torch.tensor([1]), max_features=4)
    assert found.adversarial.tolist() == [[1.0, 1.0, 1.0, pytest.approx(1.2)]]


@pytest.mark.parametrize("output", module.OUTPUTS)
@pytest.mark.parametrize("per_step", [1, 2])
def test_trace_is_the_path_and_holds_every_smaller_budget(output, per_step):
    model, x, targets = small_network(), torch.rand(9, 1, 8, 8), torch.arange(9) % 5
    whole = jsma(model, x, targets, max_features=20, output=output, trace=True, features_per_step=per_step, batch_size=4)
    assert torch.equal((whole.trace >= 0).sum(1), whole.features_changed)
    rebuilt = x.flatten(1).clone()
    for row, path in enumerate(whole.trace):
        rebuilt[row, path[path >= 0]] = 1.0
    assert torch.equal(rebuilt.view_as(x), whole.adversarial)
    for budget in (2, 6, 12):
        part = jsma(model, x, targets, max_features=budget, output=output, trace=True, features_per_step=per_step)
        assert torch.equal(part.success, whole.success & (whole.features_changed <= budget))
        for path, longer in zip(part.trace, whole.trace, strict=True):
            assert torch.equal(path[path >= 0], longer[: int((path >= 0).sum())])


def test_single_features_are_taken_one_a_step():
    model = Linear([3.0, 1.0, 5.0, -2.0, 4.0, 2.0], bias=-11.0)
    found = jsma(model, torch.zeros(1, 6), torch.tensor([1]), max_features=6, features_per_step=1, trace=True)
    assert found.trace.tolist() == [[2, 4, 0, -1, -1, -1]]
    assert (found.features_changed.item(), found.iterations.item()) == (3, 3)


def test_the_model_is_left_as_it_was():
    model = small_network().train()
    model[0].eval()
    model[3].weight.requires_grad_(False)
    jsma(model, torch.rand(2, 1, 8, 8), torch.tensor([0, 1]), max_features=4)
    assert model.training and not model[0].training
    assert [p.requires_grad for p in model.parameters()] == [True, True, False, True]
    assert all(p.grad is None for p in model.parameters())


def test_layouts_and_types():
    model, targets = small_network(), torch.arange(6) % 5
    x = torch.rand(6, 1, 8, 8)
    expected = jsma(model, x, targets, max_features=12)
    strided = x.transpose(2, 3).contiguous().transpose(2, 3)
    assert not strided.is_contiguous()
    assert torch.equal(jsma(model, strided, targets, max_features=12).status, expected.status)
    last = x.to(memory_format=torch.channels_last)
    assert torch.equal(jsma(model, last, targets, max_features=12).status, expected.status)
    double = jsma(small_network().double(), x.double(), targets, max_features=12, precision="float64")
    assert double.adversarial.dtype == torch.float64
    assert torch.equal(double.status, expected.status)


def test_a_class_that_only_bfloat16_saw_is_not_a_success():
    class Rounded(nn.Module):
        """Stands for a network whose bfloat16 logits cross the boundary before its float32 logits do."""

        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 2, bias=False)
            with torch.no_grad():
                self.layer.weight[:] = torch.tensor([[0.0] * 4, [1.0, 1.0, 1.0, 1.0]])

        def forward(self, x):
            z = self.layer(x.flatten(1))
            low = z.dtype == torch.bfloat16
            shift = torch.tensor([0.0, -1.5 if low else -3.5], device=z.device)
            return z.float() + shift

    found = jsma(Rounded(), torch.zeros(1, 4), torch.tensor([1]), max_features=4, precision="bfloat16")
    assert found.success.tolist() == [True]
    assert found.features_changed.tolist() == [4]  # bfloat16 was content with 2


@pytest.mark.parametrize("precision", ["bfloat16", "float64"])
def test_an_attack_that_is_stuck_where_the_precisions_disagree_ends(precision):
    class Disagreeing(nn.Module):
        """Two of four features help; then the ranking precision sees the target, float32 does not, and nothing is left."""

        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 2, bias=False)
            with torch.no_grad():
                self.layer.weight[:] = torch.tensor([[0.0, 0.0, -1.0, -1.0], [0.0, 0.0, 1.0, 1.0]])

        def forward(self, x):
            z = self.layer(x.flatten(1))
            return z.float() + torch.tensor([0.0, -4.5 if z.dtype == torch.float32 else -1.5])

    for output in module.OUTPUTS:
        found = jsma(Disagreeing(), torch.zeros(1, 4), torch.tensor([1]), max_features=4, output=output, precision=precision)
        assert not found.success.any() and found.status.item() in (Status.NO_VALID_PAIR, Status.ZERO_GRADIENT)


@pytest.mark.parametrize("per_step", [1, 2])
def test_gradients_whose_square_underflows_in_float64_are_still_ranked(per_step):
    model = Linear([200.0, 190.0, 180.0, 170.0], bias=-600.0)  # softmax of class 1 is e^-600, its square is not in float64
    arguments = (model, torch.zeros(1, 4), torch.tensor([1]))
    found = jsma(*arguments, max_features=4, precision="float64", features_per_step=per_step, trace=True)
    exact = jsma(*arguments, max_features=4, output="log_softmax", features_per_step=per_step, trace=True)
    assert found.status.tolist() == exact.status.tolist() == [Status.SUCCESS]
    assert torch.equal(found.trace, exact.trace)


def test_logits_that_are_not_finite_are_refused_wherever_they_appear():
    class Standardising(nn.Module):
        def forward(self, x):
            flat = x.flatten(1)
            return (flat / flat.std(1, keepdim=True))[:, :5]

    x = torch.cat([torch.rand(9, 1, 4, 4), torch.zeros(1, 1, 4, 4)])
    with pytest.raises(ValueError, match="not finite for some images"):
        jsma(Standardising(), x, torch.zeros(10, dtype=torch.int64), max_features=2)


def test_what_no_attack_touched_is_returned_bit_for_bit():
    x = torch.rand(4, 1, 8, 8, dtype=torch.float64)
    found = jsma(small_network(), x, torch.arange(4), max_features=6)
    assert found.adversarial.dtype == torch.float64
    assert torch.equal((found.adversarial != x).flatten(1).sum(1), found.features_changed)


def test_no_attacks():
    found = jsma(small_network(), torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64), max_features=4)
    assert len(found.success) == len(found.adversarial) == 0


GOOD = dict(max_features=8, value=1.0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (dict(max_features=0), "allowed is an integer from 1 to 64"),
        (dict(max_features=65), "allowed is an integer from 1 to 64"),
        (dict(max_features=2.5), "allowed is an integer"),
        (dict(value=float("nan")), "allowed is a finite number"),
        (dict(temperature=0.0), "above 0"),
        (dict(temperature=float("inf")), "above 0"),
        (dict(direction="up"), "increase, decrease"),
        (dict(output="probabilities"), "softmax, log_softmax, logits"),
        (dict(precision="half"), "float32, bfloat16, float64"),
        (dict(batch_size=0), "above 0"),
        (dict(features_per_step=3), "allowed are 1 and 2"),
        (dict(targets=torch.tensor([0, 5])), "0 to 4"),
        (dict(targets=torch.tensor([0, -1])), "0 to 4"),
        (dict(targets=torch.tensor([0.0, 1.0])), "int64"),
        (dict(targets=torch.tensor([0])), "int64 tensor of shape \\(2,\\)"),
        (dict(images=torch.full((2, 1, 8, 8), float("nan"))), "not finite"),
        (dict(images=torch.zeros(2, 1, 8, 8, dtype=torch.uint8)), "floating-point"),
        (dict(model=nn.Sequential(small_network(), nn.Softmax(1))), "returns probabilities"),
        (dict(model=nn.Linear(1, 5), images=torch.rand(2, 1), max_features=1), "one feature"),
    ],
)
def test_refused(changed, message):
    arguments = dict(model=small_network(), images=torch.rand(2, 1, 8, 8), targets=torch.tensor([0, 1]), **GOOD) | changed
    with pytest.raises(ValueError, match=message) as raised:
        jsma(arguments.pop("model"), arguments.pop("images"), arguments.pop("targets"), **arguments)
    assert "\n" not in str(raised.value)


class Transfers(TorchDispatchMode):
    """Counts what would make a GPU wait for the host."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func)
        to_host = "_to_copy" in name and str((kwargs or {}).get("device")) == "cpu"
        if "_local_scalar_dense" in name or "nonzero" in name or "item" in name or to_host:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kept", [False, True], ids=["whole", "stem kept"])
@pytest.mark.parametrize("output", module.OUTPUTS)
def test_the_loop_runs_on_cuda_tensors_and_reads_one_size_a_step(output, kept, monkeypatch):
    """No GPU is needed: under FakeTensorMode tensors have a device and a shape but no values.

    PyTorch's backward engine refuses fake CUDA tensors where no device is (pytorch issue 92627), so there the
    gradient is a stand-in of the same shape and device; forward pass, search and bookkeeping are the real ones.
    """
    if not torch.cuda.is_available():
        monkeypatch.setattr(torch.autograd, "grad", lambda output, x, **_: (torch.empty_like(x),))
    script = iter([[0, 5, 0], [2, 7, 0], [3, 4, 0], [1, 3, 0], [4, 2, 0]])  # attacks over in each step, widest candidate list, all finite
    reads = []
    monkeypatch.setattr(module, "_read_sizes", lambda sizes: reads.append(tuple(sizes.shape)) or next(script))
    with FakeTensorMode():
        with torch.device("cuda"):
            model = models.Network(1, 32, 64, 200, 64 * 4 * 4, 0.5)
        x, targets = torch.zeros(10, 1, 28, 28, device="cuda"), torch.zeros(10, dtype=torch.int64, device="cuda")
        with module._frozen(model):
            monkeypatch.setattr(module.Stem, "_agrees", lambda *_: kept)  # it compares values
            rank = module._Ranker(model, output, 1.0, 1, False, module.Stem.find(model, x[:2]))
            assert bool(rank.stem) == kept
            rule = module._Rule(112, 1.0, 2, 1)
            state = module._State.new(x, 112)
            with Transfers() as transfers, module.tqdm(disable=True) as bar:
                module._run_queue(rank, rule, state, torch.arange(10, device="cuda"), targets, 6, True, bar)
    assert reads == [(3,)] * 5  # ten attacks in batches of at most six were over after five steps
    assert transfers.seen == []
    assert all(tensor.device.type == "cuda" for tensor in dataclasses.astuple(state))


def test_softmax_of_one_step_is_the_jacobian_of_the_softmax():
    model, x = small_network(), torch.rand(3, 1, 8, 8)
    targets = torch.tensor([0, 1, 2])
    _, alpha, beta = module._Ranker(model, "softmax", 1.0, 1, False)(x, targets)
    assert beta is None
    for row in range(3):
        jacobian = torch.autograd.functional.jacobian(lambda v: F.softmax(model(v), 1)[0], x[row : row + 1]).reshape(5, -1)
        assert torch.allclose(alpha[row], jacobian[targets[row]], atol=1e-7)
        assert torch.allclose(jacobian.sum(0), torch.zeros(64), atol=1e-6)  # which is why beta = -alpha


def test_logits_give_alpha_and_beta():
    model, x = small_network(), torch.rand(2, 1, 8, 8)
    targets = torch.tensor([3, 1])
    _, alpha, beta = module._Ranker(model, "logits", 1.0, 1, False)(x, targets)
    for row in range(2):
        jacobian = torch.autograd.functional.jacobian(lambda v: model(v)[0], x[row : row + 1]).reshape(5, -1)
        others = jacobian.sum(0) - jacobian[targets[row]]
        assert torch.allclose(alpha[row], jacobian[targets[row]], atol=1e-6)
        assert torch.allclose(beta[row], others, atol=1e-5)


LARGE = """
import resource, torch
from torch import nn
from distill import jsma
model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5))
x = torch.rand(6, 3, 224, 224)
leaf = x.clone().requires_grad_()
torch.autograd.grad(model(leaf).sum(), leaf)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for output in ("softmax", "logits"):
    found = jsma(model, x, torch.arange(6) % 5, max_features=10, output=output)
    assert (found.features_changed <= 10).all() and found.features_changed.max() > 0, found
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3)
"""


def test_images_of_3_x_224_x_224_need_little_memory():
    """150,528 features: one dense matrix of pairs would take 90 GB."""
    done = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1000  # MB


def test_the_automatic_batch_size_keeps_activations_below_the_bound(monkeypatch):
    model, x, target = small_network(), torch.rand(1, 1, 8, 8), torch.tensor([0])
    rank = module._Ranker(model, "softmax", 1.0, 1, False)
    monkeypatch.setattr(module, "MEMORY", 1e6)
    size = module.automatic_batch_size(rank, x, target)
    activations = 4 * (4 * 36 + 64)  # the ReLU's output and the input, in bytes
    assert 1 < size <= 1e6 / (2 * activations)
    monkeypatch.setattr(module, "MEMORY", 1.0)
    assert module.automatic_batch_size(rank, x, target) == 1
    monkeypatch.setattr(module, "MEMORY", 1e15)
    assert module.automatic_batch_size(rank, x, target) == module.LARGEST_BATCH


def test_the_automatic_batch_size_does_not_depend_on_how_many_images_wait(monkeypatch):
    sizes = []
    automatic = module.automatic_batch_size
    monkeypatch.setattr(module, "automatic_batch_size", lambda *arguments: sizes.append(automatic(*arguments)) or sizes[-1])
    for count in (2, 2000):
        jsma(small_network(), torch.rand(count, 1, 8, 8), torch.zeros(count, dtype=torch.int64), max_features=1)
    monkeypatch.setattr(module, "MEMORY", 1e6)
    for count in (2, 2000):
        jsma(small_network(), torch.rand(count, 1, 8, 8), torch.zeros(count, dtype=torch.int64), max_features=1)
    assert sizes[0] == sizes[1] > sizes[2] == sizes[3] > 1


@pytest.mark.parametrize("per_step", [1, 2])
def test_a_product_in_float32_loses_what_the_derivative_still_holds(per_step):
    model = Linear([60.0, 50.0, 40.0, 30.0], bias=-70.0)  # softmax of class 1 is e^-70: in float32, but not its square
    arguments = (model, torch.zeros(1, 4), torch.tensor([1]))
    assert jsma(*arguments, max_features=4, features_per_step=per_step).status.tolist() == [Status.SUCCESS]
    lost = jsma(*arguments, max_features=4, features_per_step=per_step, product=True)
    assert (lost.status.tolist(), lost.features_changed.tolist()) == ([Status.NO_VALID_PAIR], [0])  # not a zero gradient
    kept = jsma(*arguments, max_features=4, features_per_step=per_step, product=True, precision="float64")
    assert kept.status.tolist() == [Status.SUCCESS]
    with pytest.raises(ValueError, match="allowed with product are softmax, log_softmax"):
        jsma(*arguments, max_features=4, product=True, output="logits")


# --- what is returned is what was attacked, and nothing fails in silence ---------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize(("direction", "value"), [("increase", 0.7), ("decrease", 0.1)])
def test_features_changed_are_the_features_that_differ(dtype, precision, direction, value):
    """0.7 and 0.1 lie on different sides of their nearest numbers of each type."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    images = torch.rand(12, 1, 8, 8).clamp(min=0.1, max=0.7).to(dtype)
    targets = (model(images.float()).argmax(1) + 1) % 4
    result = jsma(model, images, targets, value=value, direction=direction, precision=precision, max_features=20)
    assert result.adversarial.dtype == dtype
    assert ((result.adversarial != images).flatten(1).sum(1) == result.features_changed).all() and result.features_changed.max() > 0
    assert ((model(result.adversarial.float()).argmax(1) == targets) == result.success).all()


def test_success_is_judged_on_what_is_returned():
    model = nn.Linear(2, 2)
    model.weight.data = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    model.bias.data = torch.tensor([1.39921875, 0.0])  # 0.7 + 0.7 is above it, twice bfloat16's nearest number below
    images, targets = torch.zeros(1, 2, dtype=torch.bfloat16), torch.tensor([1])
    assert not jsma(model, images, targets, value=0.7, max_features=2).success.any()
    assert jsma(model, images.float(), targets, value=0.7, max_features=2).success.all()


@pytest.mark.parametrize("output", module.OUTPUTS)
def test_derivatives_that_are_not_finite_are_named(output):
    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))

        def forward(self, x):
            return self.inner(x) + 0 * x.flatten(1)[:, :1].sqrt()  # whose derivative at 0 is infinite

    images = torch.rand(5, 1, 8, 8)
    targets = (Root()(images).argmax(1) + 1) % 4
    jsma(Root(), images, targets, output=output, max_features=8)
    images[3, 0, 0, 0] = 0
    with pytest.raises(ValueError, match=f"derivatives of the model's {output} at temperature 1 are not finite"):
        jsma(Root(), images, targets, output=output, max_features=8)
