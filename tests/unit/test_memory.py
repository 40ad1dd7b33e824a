"""Models are moved to the device when they are used, and stay there as long as there is memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from ltx2_core.memory import Residency

CPU = torch.device("cpu")


class Loader:
    """Counts how often models are loaded."""

    def __init__(self) -> None:
        self.loaded: list[str] = []

    def __call__(self, name: str) -> Callable[[], nn.Module]:
        def load() -> nn.Module:
            self.loaded.append(name)
            return nn.Linear(2, 2)

        return load


def use(residency: Residency, load: Loader, name: str, nbytes: int) -> nn.Module:
    with residency.use(name, nbytes, load(name)) as model:
        assert not model.weight.is_meta
        return model


def test_model_that_fits_is_loaded_once() -> None:
    residency, load = Residency(CPU, 10), Loader()
    first = use(residency, load, "a", 6)
    assert use(residency, load, "a", 6) is first
    assert load.loaded == ["a"]


def test_models_used_longest_ago_leave_until_the_next_fits() -> None:
    residency, load = Residency(CPU, 10), Loader()
    a, b = use(residency, load, "a", 4), use(residency, load, "b", 4)
    use(residency, load, "a", 4)
    use(residency, load, "c", 5)
    assert [all(p.is_meta for p in model.parameters()) for model in (a, b)] == [False, True]
    use(residency, load, "a", 4)
    assert load.loaded == ["a", "b", "c"]


def test_model_that_takes_more_at_its_next_use_makes_others_leave() -> None:
    residency, load = Residency(CPU, 10), Loader()
    a, b = use(residency, load, "a", 4), use(residency, load, "b", 4)
    assert use(residency, load, "a", 7) is a
    assert not a.weight.is_meta
    assert b.weight.is_meta
    use(residency, load, "a", 4)
    use(residency, load, "b", 4)
    use(residency, load, "a", 4)
    assert load.loaded == ["a", "b", "b"]


def test_model_larger_than_the_budget_is_alone_and_leaves_after_its_use() -> None:
    residency, load = Residency(CPU, 10), Loader()
    small = use(residency, load, "small", 1)
    with residency.use("large", 99, load("large")) as large:
        assert small.weight.is_meta
        assert not large.weight.is_meta
    assert large.weight.is_meta


def test_model_in_use_stays_whatever_comes_beside_it() -> None:
    residency, load = Residency(CPU, 0), Loader()
    with residency.use("a", 1, load("a")) as first, residency.use("b", 1, load("b")) as second:
        assert not first.weight.is_meta
        assert not second.weight.is_meta
    assert first.weight.is_meta
    assert second.weight.is_meta


@pytest.mark.parametrize("count", [1, 2])
def test_models_keep_no_weights_after_an_error_whoever_still_holds_them(count: int) -> None:
    residency = Residency(CPU, 10)
    held: list[nn.Module] = []

    def fail(models: tuple[nn.Module, ...]) -> None:
        held.extend(models)
        raise RuntimeError("broken")

    with (
        pytest.raises(RuntimeError, match="broken"),
        residency.use("a", 1, lambda: (nn.Linear(2, 2),) * count) as found,
    ):
        fail(found)
    assert all(tensor.is_meta for model in held for tensor in model.state_dict().values())


def test_after_clearing_nothing_is_left() -> None:
    residency, load = Residency(CPU, 10), Loader()
    models = [use(residency, load, name, 2) for name in "ab"]
    residency.clear()
    assert all(parameter.is_meta for model in models for parameter in model.parameters())
    use(residency, load, "a", 2)
    assert load.loaded == ["a", "b", "a"]
