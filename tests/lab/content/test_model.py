"""The lab's model: what it is made of, and that it is the same bytes every time."""

import hashlib
from pathlib import Path

import pytest

from homeport.lab.content import model


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    assert model.VOCABULARY % 32 == 0, "a quantised row is made of blocks of 32"
    # All of it takes seconds to write.
    monkeypatch.setattr(model, "VOCABULARY", 512)


def test_the_vocabulary_fits_the_model() -> None:
    tokens = model.vocabulary()
    assert len(tokens) == model.VOCABULARY
    assert len({token.text for token in tokens}) == len(tokens)
    assert tokens[4].text == "<|im_end|>", "the end of an answer is the token that the header names"


def test_the_model_may_say_words_and_nothing_else() -> None:
    said = [token for token in model.vocabulary() if model.speakable(token)]
    assert len(said) > 100
    assert all(token.text[0] == "\u2581" and token.text[1:].isalpha() for token in said)


def test_the_head_suits_a_quantised_cache() -> None:
    assert model.WIDTH // model.HEADS % 32 == 0
    assert model.HEADS % model.KV_HEADS == 0


def test_the_names_are_those_that_iona_asks_for() -> None:
    text = (Path(__file__).parents[3] / "inventory" / "iona.py").read_text()
    for name in (model.REPO, model.MODEL_FILE, model.PROJECTOR_FILE):
        assert f'"{name}"' in text


class TestFiles:
    @pytest.fixture(autouse=True)
    def gguf(self) -> None:
        pytest.importorskip("gguf", reason="the lab's own dependency, see pyproject.toml")

    def test_two_writings_are_the_same_bytes(self, tmp_path: Path) -> None:
        digests = []
        for name in ("first", "second"):
            files = model.write_files(tmp_path / name)
            digests.append([hashlib.sha256(path.read_bytes()).digest() for path in files.values()])
        assert digests[0] == digests[1]

    def test_another_seed_is_another_model(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model.write_projector(tmp_path / "a")
        monkeypatch.setattr(model, "SEED", model.SEED + 1)
        model.write_projector(tmp_path / "b")
        assert (tmp_path / "a").read_bytes() != (tmp_path / "b").read_bytes()

    def test_nothing_in_the_network_writes_to_the_steady_feature(self) -> None:
        tokens = model.vocabulary()
        tensors = dict(model.text_tensors(model.Weights(model.SEED), tokens))
        for layer in range(model.LAYERS):
            for name in ("attn_output", "ffn_down"):
                assert not tensors[f"blk.{layer}.{name}.weight"][model.STEADY].any()
        penalties = tensors["output.weight"][:, model.STEADY]
        assert all(
            (penalty == 0.0) == model.speakable(token)
            for penalty, token in zip(penalties, tokens, strict=True)
        )

    def test_a_file_that_is_there_is_kept(self, tmp_path: Path) -> None:
        first = model.write_files(tmp_path)
        times = [path.stat().st_mtime_ns for path in first.values()]
        again = model.write_files(tmp_path)
        assert [path.stat().st_mtime_ns for path in again.values()] == times
