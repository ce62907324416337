"""Seeds until a result is decided, and settings chosen first, in the form of a new experiment."""

from __future__ import annotations

from streamlit.testing.v1 import AppTest

from tests.dashboard.conftest import button, field, texts
from tests.dashboard.form import backend, form, made, running
from tests.dashboard.stand import Stand

__all__ = ["backend", "form", "running"]


class TestSeedsUntilDecided:
    def test_seeds_are_added_until_decided_if_the_form_says_so(self, form: AppTest, backend: Stand) -> None:
        choice = next(item for item in form.button_group if "seeds.form" in str(item.key))
        choice.set_value("Until decided").run()
        assert not form.exception
        field(form, "seeds.most").set_value(12).run()
        field(form, "seeds.difference").set_value(0.8).run()
        assert "until: decided" in texts(form)
        button(form, "Start 10 runs").click().run()
        (spec,) = made(backend).values()
        assert spec.until_decided is not None
        assert (spec.until_decided.first, spec.until_decided.most, spec.until_decided.difference) == (3, 12, 0.8)

    def test_an_invalid_number_is_shown_at_its_field(self, form: AppTest) -> None:
        choice = next(item for item in form.button_group if "seeds.form" in str(item.key))
        choice.set_value("Until decided").run()
        field(form, "seeds.most").set_value(2).run()
        assert any("must be at least first" in item.value for item in form.markdown)


class TestSettingsChosenFirst:
    def test_the_form_asks_for_trials_of_every_method(self, form: AppTest, backend: Stand) -> None:
        switch = next(item for item in form.toggle if str(item.key).endswith(".tune"))
        assert switch.value is False
        switch.set_value(True).run()
        assert not form.exception
        field(form, "tune.trials").set_value(4).run()
        assert "tune:" in texts(form)
        next(item for item in form.button if item.label.startswith("Start ")).click().run()
        (spec,) = made(backend).values()
        assert spec.tune is not None
        assert (spec.tune.trials, spec.tune.val_fraction, spec.tune.seeds) == (4, 0.1, (10_000,))

    def test_an_invalid_seed_is_shown_at_its_field(self, form: AppTest) -> None:
        next(item for item in form.toggle if str(item.key).endswith(".tune")).set_value(True).run()
        field(form, "tune.seeds").set_value("0").run()
        assert any("is one of the experiment's" in item.value for item in form.markdown)
