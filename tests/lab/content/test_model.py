"""The lab's model: what it is made of, and that it is the same bytes every time."""

import hashlib
from pathlib import Path

import pytest

from homeport.lab.content import model

SMALL = 512  # what the lab has takes seconds to write


@pytest.mark.parametrize("size", [SMALL, model.EMULATED_VOCABULARY, model.VOCABULARY])
def test_the_vocabulary_fits_the_model(size: int) -> None:
    assert size % 32 == 0, "a quantised row is made of blocks of 32"
    tokens = model.vocabulary(size)
    assert len(tokens) == size
    assert len({token.text for token in tokens}) == len(tokens)
    assert tokens[4].text == "<|im_end|>", "the end of an answer is the token that the header names"


def test_the_model_may_say_words_and_nothing_else() -> None:
    said = [token for token in model.vocabulary(SMALL) if model.speakable(token)]
    assert len(said) > 100
    assert all(token.text[0] == "\u2581" and token.text[1:].isalpha() for token in said)


def test_the_head_suits_a_quantised_cache() -> None:
    assert model.WIDTH // model.HEADS % 32 == 0
    assert model.HEADS % model.KV_HEADS == 0


class TestFiles:
    @pytest.fixture(autouse=True)
    def gguf(self) -> None:
        pytest.importorskip("gguf", reason="the lab's own dependency, see pyproject.toml")

    def test_two_writings_are_the_same_bytes(self, tmp_path: Path) -> None:
        digests = []
        for name in ("first", "second"):
            files = (tmp_path / f"{name}.gguf", tmp_path / f"{name}-mmproj.gguf")
            model.write_model(files[0], SMALL)
            model.write_projector(files[1])
            digests.append([hashlib.sha256(path.read_bytes()).digest() for path in files])
        assert digests[0] == digests[1]

    def test_another_seed_is_another_model(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model.write_projector(tmp_path / "a")
        monkeypatch.setattr(model, "SEED", model.SEED + 1)
        model.write_projector(tmp_path / "b")
        assert (tmp_path / "a").read_bytes() != (tmp_path / "b").read_bytes()

    def test_nothing_in_the_network_writes_to_the_steady_feature(self) -> None:
        tokens = model.vocabulary(SMALL)
        tensors = dict(model.text_tensors(model.Weights(model.SEED), tokens))
        for layer in range(model.LAYERS):
            for name in ("attn_output", "ffn_down"):
                assert not tensors[f"blk.{layer}.{name}.weight"][model.STEADY].any()
        penalties = tensors["output.weight"][:, model.STEADY]
        assert all(
            (penalty == 0.0) == model.speakable(token)
            for penalty, token in zip(penalties, tokens, strict=True)
        )
