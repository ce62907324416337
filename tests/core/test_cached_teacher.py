"""Teacher logits kept on disk: the same numbers whether they are there or not, and never the wrong ones."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from core.distill.objective import NetworkShape
from core.events import Journal, Log, read_journal
from core.settings import SettingsError, TrainingSettings
from core.tasks.classification import data, models
from core.tasks.classification.data import Dataset
from core.tasks.classification.data.fingerprint import describe_training_images, digest
from core.tasks.classification.data.holdout import hold_out
from core.tasks.classification.data.views import augmentation_table, shift_and_flip
from core.tasks.hashing import permutation
from core.train.cached_teacher import open_cache, reused_teacher
from core.train.job import Job
from core.train.output_cache import OutputCache
from core.train.quantization import LOGITS, MAX_DEVIATION, QuantizedRows
from core.train.teacher import LiveTeacher
from tests.core.task_of import task_of
from tests.core.teacher_experiments import BATCH, SYNTHETIC, experiment
from tests.core.teacher_harness import CHOSEN, Harness, key_for


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return data.load(SYNTHETIC, TrainingSettings.from_environment())


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return models.build("resnet8", num_classes=5, image_size=8).eval()


class TestReuse:
    def test_hit_and_miss_are_the_same_numbers_and_a_hit_does_not_ask(
        self, dataset: Dataset, network: torch.nn.Module, tmp_path: Path
    ) -> None:
        first, second = Harness(dataset, network, tmp_path), Harness(dataset, network, tmp_path)
        missed = [first.epoch(epoch) for epoch in range(4)]
        hit = [second.epoch(epoch) for epoch in range(4)]
        assert first.asked == 4 * 5
        assert second.asked == 4  # one batch an epoch is checked
        assert (first.share, second.share) == (0, 100)
        for ours, theirs in zip(missed, hit, strict=True):
            assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
        assert not torch.equal(missed[0][0], missed[1][0])

    def test_they_are_the_networks_up_to_the_rounding(
        self, dataset: Dataset, network: torch.nn.Module, tmp_path: Path
    ) -> None:
        harness = Harness(dataset, network, tmp_path)
        for batch in harness.batches(0):
            exact, kept = harness.forward(batch.images), harness.teacher.outputs(batch, 0).logits
            largest = (exact - exact.mean(1, keepdim=True)).abs().max()
            assert (exact - kept).abs().max() <= largest * 2**-10
            assert not torch.equal(exact, kept)

    def test_an_epoch_that_was_entered_in_its_middle_is_not_kept(
        self, dataset: Dataset, network: torch.nn.Module, tmp_path: Path
    ) -> None:
        harness = Harness(dataset, network, tmp_path)
        harness.epoch(0, start=1)
        assert harness.files.epochs() == set()
        harness.epoch(1)
        assert harness.files.epochs() == {1}

    def test_resumed_epoch_reads_the_cache_of_another_run(
        self, dataset: Dataset, network: torch.nn.Module, tmp_path: Path
    ) -> None:
        whole = Harness(dataset, network, tmp_path).epoch(0)
        resumed = Harness(dataset, network, tmp_path)
        assert all(torch.equal(*pair) for pair in zip(resumed.epoch(0, start=2), whole[2:], strict=True))
        assert resumed.share == 100

    def test_two_at_once_both_miss_and_both_keep(
        self, dataset: Dataset, network: torch.nn.Module, tmp_path: Path
    ) -> None:
        one, other = Harness(dataset, network, tmp_path), Harness(dataset, network, tmp_path)
        for batch in one.batches(0):
            assert torch.equal(one.teacher.outputs(batch, 0).logits, other.teacher.outputs(batch, 0).logits)
        for harness in (one, other):
            harness.teacher.end_epoch()
            harness.teacher.wait_for_writer()
        assert one.asked == other.asked == 5
        assert Harness(dataset, network, tmp_path).epoch(0)
        assert one.files.epochs() == {0}

    def test_a_run_that_only_reads_compiles_no_teacher(
        self, dataset: Dataset, network: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        times: list[int] = []

        def counted(network: torch.nn.Module, *_: object) -> torch.nn.Module:
            times.append(1)
            return network

        monkeypatch.setattr("core.train.teacher.compile_network", counted)
        chosen = CHOSEN.model_copy(update={"compile": True})
        spec = experiment("dkd", epochs=1).plan()[1].spec
        settings = TrainingSettings(cache_dir=tmp_path)
        with Journal(tmp_path / "events.jsonl") as journal:
            for _ in range(2):
                job = Job(spec, journal, settings)
                task = task_of(dataset)
                live = LiveTeacher(network, chosen, task)
                teacher = reused_teacher(live, {"sha256": "a"}, job, task, NetworkShape(dataset.num_classes), chosen)
                for batch in dataset.batches(BATCH, 0, 0):
                    teacher.outputs(batch, 0)
                teacher.end_epoch()
                teacher.finish()
        assert times == [1]
        said = [record.event for record in read_journal(tmp_path / "events.jsonl")][-1]
        assert isinstance(said, Log)
        assert "1 epochs were read from the disk, 0 written (0.0 MB), 1 batches checked" in said.message

    def test_end_of_training_logs_the_use_of_the_cache(
        self, dataset: Dataset, network: torch.nn.Module, tmp_path: Path
    ) -> None:
        for _ in range(2):
            harness = Harness(dataset, network, tmp_path)
            harness.epoch(0)
            harness.teacher.finish()
        assert "1 epochs are there" in harness.said[0][0]
        assert "1 epochs were read from the disk, 0 written" in harness.said[-1][0]


class TestWrong:
    def test_logits_of_another_network_are_found_out_and_removed_before_one_is_used(
        self, dataset: Dataset, network: torch.nn.Module, tmp_path: Path
    ) -> None:
        Harness(dataset, network, tmp_path).epoch(0)
        torch.manual_seed(1)
        other = models.build("resnet8", num_classes=5, image_size=8).eval()
        harness, live = Harness(dataset, other, tmp_path), Harness(dataset, other, tmp_path / "elsewhere")
        assert all(torch.equal(*pair) for pair in zip(harness.epoch(0), live.epoch(0), strict=True))
        assert (harness.share, harness.files.epochs()) == (0, set())
        assert [level for _, level in harness.said] == ["info", "warning"]
        harness.epoch(1)
        assert harness.files.epochs() == set()  # what is not understood is not written either

    def test_a_later_epoch_is_checked_at_a_batch_of_its_own(
        self, dataset: Dataset, network: torch.nn.Module, tmp_path: Path
    ) -> None:
        first = Harness(dataset, network, tmp_path)
        for epoch in range(6):
            first.epoch(epoch)
        wrong = {LOGITS: QuantizedRows(torch.ones(150, 5, dtype=torch.float16), torch.ones(150))}
        first.files.write(5, wrong)
        harness = Harness(dataset, network, tmp_path)
        places = set()
        for epoch in range(5):
            for number, batch in enumerate(harness.batches(epoch)):
                before = harness.asked
                harness.teacher.outputs(batch, epoch)
                if harness.asked > before:
                    places.add(number)
            harness.teacher.end_epoch()
        assert len(places) > 1
        harness.epoch(5)
        assert "are not the teacher's logits now" in harness.text()

    @pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "another shape"])
    def test_a_damaged_file_is_not_read_and_made_again(
        self, dataset: Dataset, network: torch.nn.Module, tmp_path: Path, damage: str
    ) -> None:
        first = Harness(dataset, network, tmp_path)
        expected = first.epoch(0)
        (path,) = first.files.folder.glob("epoch-*")
        content = bytearray(path.read_bytes())
        if damage == "cut":
            path.write_bytes(content[:-100])
        elif damage == "flipped":
            content[-1000] ^= 1
            path.write_bytes(content)
        elif damage == "empty":
            path.write_bytes(b"")
        else:
            first.files.write(0, {LOGITS: QuantizedRows(torch.zeros(10, 5, dtype=torch.float16), torch.zeros(10))})
        again = Harness(dataset, network, tmp_path)
        assert all(torch.equal(*pair) for pair in zip(again.epoch(0), expected, strict=True))
        assert again.share == 0
        third = Harness(dataset, network, tmp_path)
        third.epoch(0)
        assert third.share == 100

    @pytest.mark.parametrize("extreme", [MAX_DEVIATION, 1e6, float("inf"), float("nan")])
    def test_what_float16_cannot_hold_is_used_as_it_is_and_not_kept(
        self, dataset: Dataset, network: torch.nn.Module, tmp_path: Path, extreme: float
    ) -> None:
        def odd(images: Tensor) -> Tensor:
            logits: Tensor = network(images).clone()
            logits[3, 2] += extreme * 1.5
            return logits

        harness = Harness(dataset, odd, tmp_path)
        for batch, kept in zip(harness.batches(0), harness.epoch(0), strict=True):
            with torch.no_grad():
                exact = odd(batch.images)
            assert torch.allclose(kept[3], exact[3], rtol=0, atol=0, equal_nan=True)
            assert torch.isfinite(kept[:3]).all()
            assert not torch.equal(kept[:3], exact[:3])
        assert harness.files.epochs() == set()
        assert "too coarse" in harness.text()


class TestDisk:
    def test_a_full_disk_is_a_line_in_the_log(
        self, dataset: Dataset, network: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("safetensors.torch.save_file", full)
        harness = Harness(dataset, network, tmp_path)
        assert [len(harness.epoch(epoch)) for epoch in range(2)] == [5, 5]
        assert harness.text().count("No space left") == 1
        assert list(harness.files.folder.glob("*.partial")) == []

    def test_an_unwritable_folder_is_a_line_in_the_log(
        self, dataset: Dataset, network: torch.nn.Module, tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_text("no folder")
        harness = Harness(dataset, network, tmp_path / "file")
        harness.epoch(0)
        assert "the disk refuses" in harness.text()

    def test_those_used_longest_ago_make_room_but_never_ones_own(self, tmp_path: Path) -> None:
        rows = {LOGITS: QuantizedRows(torch.zeros(100, 50, dtype=torch.float16), torch.zeros(100))}
        limit = 3 * 10_800  # three files of 10,400 bytes and their headers
        old, new, mine = (OutputCache(tmp_path, {"of": name}, limit) for name in ("old", "new", "mine"))
        assert old.write(0, rows)
        assert new.write(0, rows)
        for age, files in ((200, old), (100, new)):
            past = time.time() - age
            os.utime(files.folder / "epoch-00000.safetensors", (past, past))
        assert old.read(0, 100, {LOGITS: 50})  # which is a use
        assert mine.write(0, rows)
        assert mine.write(1, rows)
        assert (old.epochs(), new.epochs(), mine.epochs()) == ({0}, set(), {0, 1})
        assert not new.folder.exists()
        assert mine.write(2, rows)
        assert not mine.write(3, rows)
        assert (old.epochs(), mine.epochs()) == (set(), {0, 1, 2})

    def test_a_run_too_long_for_the_limit_keeps_its_first_epochs(
        self, dataset: Dataset, network: torch.nn.Module, tmp_path: Path
    ) -> None:
        shares = []
        for _ in range(2):
            harness = Harness(dataset, network, tmp_path, limit=2 * 2500)
            for epoch in range(4):
                harness.epoch(epoch)
                shares.append(harness.share)
            assert harness.files.epochs() == {0, 1}
            assert "DKD_TEACHER_LOGITS_GB" in harness.text()
        assert shares == [0, 0, 0, 0, 100, 100, 0, 0]

    def test_no_more_than_half_of_the_free_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        files = OutputCache(tmp_path, {}, 10**9)
        monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
        assert files.available_bytes() == 500

    def test_an_evicted_file_is_a_miss(self, dataset: Dataset, network: torch.nn.Module, tmp_path: Path) -> None:
        Harness(dataset, network, tmp_path).epoch(0)
        harness = Harness(dataset, network, tmp_path)
        batches = harness.batches(0)
        harness.teacher.outputs(batches[0], 0)
        harness.files.clear()  # what is open is not taken away
        for batch in batches[1:]:
            harness.teacher.outputs(batch, 0)
        assert harness.teacher.end_epoch() == {"speed/teacher_reused": 100}
        assert harness.epoch(0)
        assert harness.share == 0

    def test_leftovers_of_killed_processes_go(self, tmp_path: Path) -> None:
        files = OutputCache(tmp_path, {}, 10**9)
        rows = {LOGITS: QuantizedRows(torch.zeros(2, 3, dtype=torch.float16), torch.zeros(2))}
        files.write(0, rows)
        stale, fresh = files.folder / "epoch-00001.7.partial", files.folder / "epoch-00002.8.partial"
        for path, age in ((stale, 7200), (fresh, 10)):
            path.touch()
            os.utime(path, (time.time() - age,) * 2)
        files.write(3, rows)
        assert (stale.exists(), fresh.exists()) == (False, True)

    def test_the_limit_is_a_setting(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("DKD_CACHE_DIR", str(tmp_path))
        monkeypatch.setenv("DKD_TEACHER_LOGITS_GB", "0")
        files = open_cache({}, TrainingSettings.from_environment())
        assert files.folder.parent == tmp_path / "teacher-logits"
        assert not files.write(0, {LOGITS: QuantizedRows(torch.zeros(2, 3, dtype=torch.float16), torch.zeros(2))})
        for wrong in ("much", "-1", "nan"):
            monkeypatch.setenv("DKD_TEACHER_LOGITS_GB", wrong)
            with pytest.raises(SettingsError, match="DKD_TEACHER_LOGITS_GB"):
                TrainingSettings.from_environment()


class TestKey:
    def test_key_contains_everything_that_changes_the_logits(self, dataset: Dataset, tmp_path: Path) -> None:
        changed = dataset.train.images.clone()
        changed[0, 0, 0, 0] += 1
        others = {
            "pixel": key_for(replace(dataset, train=replace(dataset.train, images=changed))),
            "mean": key_for(replace(dataset, mean=(0.1,) * dataset.channels)),
            "augment": key_for(dataset, augment="none"),
            "shifts": key_for(replace(dataset, augmentation=replace(dataset.augmentation, pad=2))),
            "size": key_for(replace(dataset, upscaled_size=16)),
            "held out": key_for(hold_out(dataset, 0.2, 0)),
            "seed": key_for(dataset, seed=1),
            "batch": key_for(dataset, batch=16),
            "weights": key_for(dataset, sha="b"),
            "precision": key_for(dataset, chosen=CHOSEN.model_copy(update={"precision": "bfloat16"})),
        }
        names = {label: OutputCache(tmp_path, key, 1).name for label, key in others.items()}
        names["itself"] = OutputCache(
            tmp_path, key_for(data.load(SYNTHETIC, TrainingSettings.from_environment())), 1
        ).name
        assert names["itself"] == OutputCache(tmp_path, key_for(dataset, method="kd"), 1).name
        assert len(set(names.values())) == len(names)
        json.dumps(others)

    def test_packed_images_count_by_their_pack(self, dataset: Dataset) -> None:
        one, other = (describe_training_images(replace(dataset, pack_key=key)) for key in ("one pack", "another"))
        assert one["images"] == "one pack"
        assert one != other

    def test_augmented_views_match_their_version(self) -> None:
        """Raise VIEWS_VERSION with these digests: logits kept of other views would be taken for those of the new."""
        images = torch.arange(6 * 3 * 8 * 8, dtype=torch.int64).mul(37).remainder(256).to(torch.uint8)
        augmentation = data.Augmentation(pad=2, flip=True)
        views = torch.from_numpy(augmentation_table(6, augmentation, 5, 3))
        assert digest(shift_and_flip(images.view(6, 3, 8, 8), views, augmentation))[:16] == "5c7076779497f754"
        assert digest(torch.from_numpy(permutation(50, 5, 3)))[:16] == "bea9d9465c321e03"
