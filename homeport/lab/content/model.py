"""A model for the lab: a real GGUF that accepts images, small, and the same bytes every time.

It is a `llama` of random weights with a vocabulary as large as Gemma's: the real llama-server loads
it in a second, reads prompts quickly and yet does not answer all at once, and a context of 131072
tokens with a q4_0 cache fits in about 0.4 GB. Beside it lies a CLIP projector of the same width.

Random weights would end an answer at once or answer in control characters. One feature of the
hidden state, `STEADY`, is therefore the same at every position: nothing in the network writes to
it, and the output layer reads from it a penalty for every token but whole words. So an answer is
words only, goes on for as long as it is asked to, and each token is one piece of text.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SEED = 20261120
WIDTH = 128
LAYERS = 4
HEADS = 2
KV_HEADS = 1  # one head of 64: a multiple of 32, or llama.cpp refuses a quantised KV cache
FEED_FORWARD = 512
# Larger than Gemma's, and nearly all of it never said: with sampling over all of it, a token takes
# about 6 ms on a 2020s core, whereas reading a prompt stays quick. An answer of 400 tokens so takes
# more than 2 s, which is what a test of streaming needs. Few layers do: each costs every thread a
# wait for the others, which on a busy machine with few cores is what makes an engine stumble.
VOCABULARY = 393216
# Where a processor is emulated a token of all that takes 0.7 s, and those 400 five minutes.
EMULATED_VOCABULARY = 32768
CONTEXT = 131072
STEADY = 0
STEADY_VALUE = 4.0
PENALTY = -60.0

IMAGE_SIZE = 56
PATCH = 14
VISION_WIDTH = 64
VISION_LAYERS = 2
VISION_FEED_FORWARD = 128
VISION_HEADS = 2

NORMAL, UNKNOWN, CONTROL, UNUSED, BYTE = 1, 2, 3, 5, 6  # token types, gguf.TokenType

WORDS = (
    "the a of to and in is it on as at by for from with not this that we you all one two more "
    "less new old small large early late clear quiet open near far north south east west sea "
    "shore harbour port home ship sail wind wave tide rope anchor light lamp deck mast hull "
    "chart map star moon sun rain cloud storm calm day night morning evening winter summer "
    "river bridge road gate house door window room table chair book page word line letter "
    "name song bell clock hand eye stone wood iron glass water fire bread salt fish bird tree "
    "leaf seed field hill island keeps holds finds brings carries opens closes turns moves "
    "waits rests rises falls shines grows comes goes stays sees hears knows "
)

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Token:
    """One entry of the vocabulary: its text, its score for the tokenizer, its type."""

    text: str
    score: float
    type: int


def vocabulary(size: int) -> list[Token]:
    """Control tokens, all bytes, printable characters, whole words with a space before, and as many
    that are never said as it takes to have `size`."""
    tokens = [Token(text="<unk>", score=0.0, type=UNKNOWN)]
    for text in ("<s>", "</s>", "<|im_start|>", "<|im_end|>"):
        tokens.append(Token(text=text, score=0.0, type=CONTROL))
    tokens += [Token(text=f"<0x{byte:02X}>", score=0.0, type=BYTE) for byte in range(256)]
    characters = ["\u2581", *(chr(code) for code in range(0x21, 0x7F))]
    tokens += [Token(text=text, score=-1000.0, type=NORMAL) for text in characters]
    tokens += [
        Token(text=f"\u2581{word}", score=-float(rank), type=NORMAL)
        for rank, word in enumerate(dict.fromkeys(WORDS.split()), start=1)
    ]
    unused = range(len(tokens), size)
    return tokens + [Token(text=f"[unused{n}]", score=-1e6, type=UNUSED) for n in unused]


def speakable(token: Token) -> bool:
    """Whether the model may say it: whole words only."""
    return token.type == NORMAL and len(token.text) > 1


class Weights:
    """Random weights in a fixed order.

    `RandomState` and not a `Generator`: numpy promises that the former's streams never change
    (NEP 19), and the file's sha256 hangs on that.
    """

    def __init__(self, seed: int) -> None:
        import numpy  # type: ignore[import-not-found,unused-ignore]

        self.numpy = numpy
        self.random = numpy.random.RandomState(seed)

    def matrix(self, rows: int, columns: int) -> Any:
        """Normal, scaled so that a normalised input gives an output of about unit size."""
        values = self.random.standard_normal((rows, columns)) / columns**0.5
        return values.astype(self.numpy.float32)

    def into_residual(self, columns: int) -> Any:
        """A matrix whose output is added to the hidden state: it leaves `STEADY` alone."""
        values = self.matrix(WIDTH, columns) * 0.5
        values[STEADY, :] = 0.0
        return values

    def vector(self, size: int, value: float) -> Any:
        return self.numpy.full((size,), value, dtype=self.numpy.float32)


def text_tensors(weights: Weights, tokens: list[Token]) -> Iterator[tuple[str, Any]]:
    """The language model's tensors under llama.cpp's names, float32, in the order of the file."""
    kv_width = WIDTH // HEADS * KV_HEADS
    embedding = weights.matrix(len(tokens), WIDTH) * WIDTH**0.5
    embedding[:, STEADY] = STEADY_VALUE
    yield "token_embd.weight", embedding
    yield "output_norm.weight", weights.vector(WIDTH, 1.0)
    output = weights.matrix(len(tokens), WIDTH) * 3.0
    output[:, STEADY] = [0.0 if speakable(token) else PENALTY for token in tokens]
    yield "output.weight", output
    for layer in range(LAYERS):
        name = f"blk.{layer}."
        yield name + "attn_norm.weight", weights.vector(WIDTH, 1.0)
        yield name + "attn_q.weight", weights.matrix(WIDTH, WIDTH)
        yield name + "attn_k.weight", weights.matrix(kv_width, WIDTH)
        yield name + "attn_v.weight", weights.matrix(kv_width, WIDTH)
        yield name + "attn_output.weight", weights.into_residual(WIDTH)
        yield name + "ffn_norm.weight", weights.vector(WIDTH, 1.0)
        yield name + "ffn_gate.weight", weights.matrix(FEED_FORWARD, WIDTH)
        yield name + "ffn_up.weight", weights.matrix(FEED_FORWARD, WIDTH)
        yield name + "ffn_down.weight", weights.into_residual(FEED_FORWARD)


def vision_tensors(weights: Weights) -> Iterator[tuple[str, Any]]:
    """The projector's tensors under llama.cpp's names (a LLaVA `mlp` projector), float32."""
    numpy, width = weights.numpy, VISION_WIDTH
    positions = (IMAGE_SIZE // PATCH) ** 2 + 1
    patch = weights.random.standard_normal((width, 3, PATCH, PATCH)) / (3 * PATCH**2) ** 0.5
    yield "v.patch_embd.weight", patch.astype(numpy.float32)
    yield "v.class_embd", weights.matrix(1, width)[0]
    yield "v.position_embd.weight", weights.matrix(positions, width)
    yield "v.pre_ln.weight", weights.vector(width, 1.0)
    yield "v.pre_ln.bias", weights.vector(width, 0.0)
    for layer in range(VISION_LAYERS):
        name = f"v.blk.{layer}."
        for part in ("ln1", "ln2"):
            yield f"{name}{part}.weight", weights.vector(width, 1.0)
            yield f"{name}{part}.bias", weights.vector(width, 0.0)
        for part in ("attn_q", "attn_k", "attn_v", "attn_out"):
            yield f"{name}{part}.weight", weights.matrix(width, width)
            yield f"{name}{part}.bias", weights.vector(width, 0.0)
        yield f"{name}ffn_up.weight", weights.matrix(VISION_FEED_FORWARD, width)
        yield f"{name}ffn_up.bias", weights.vector(VISION_FEED_FORWARD, 0.0)
        yield f"{name}ffn_down.weight", weights.matrix(width, VISION_FEED_FORWARD)
        yield f"{name}ffn_down.bias", weights.vector(width, 0.0)
    yield "mm.0.weight", weights.matrix(WIDTH, width)
    yield "mm.0.bias", weights.vector(WIDTH, 0.0)
    yield "mm.2.weight", weights.into_residual(WIDTH)
    bias = weights.vector(WIDTH, 0.0)
    bias[STEADY] = STEADY_VALUE
    yield "mm.2.bias", bias


def write_model(path: Path, size: int = VOCABULARY) -> None:
    """Write the language model with a vocabulary of `size`, a multiple of 32, to `path` (about
    70 MB with `VOCABULARY`). Needs the `gguf` package."""
    import gguf

    tokens = vocabulary(size)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("Homeport lab model")
    writer.add_description("Random weights: says words, means nothing")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list([token.text for token in tokens])
    writer.add_token_scores([token.score for token in tokens])
    writer.add_token_types([token.type for token in tokens])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(4)
    writer.add_chat_template(TEMPLATE)
    # No cut-off: the sampler goes through the whole vocabulary for every token. See VOCABULARY.
    writer.add_int32("general.sampling.top_k", 0)

    def kind(name: str, tensor: Any) -> Any:
        if tensor.ndim == 1:
            return gguf.GGMLQuantizationType.F32
        return gguf.GGMLQuantizationType.Q4_0

    _write(writer, text_tensors(Weights(SEED), tokens), kind)


def write_projector(path: Path) -> None:
    """Write the projector to `path` (below 1 MB). Needs the `gguf` package."""
    import gguf

    writer = gguf.GGUFWriter(path, "clip")
    writer.add_name("Homeport lab projector")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", "mlp")
    writer.add_bool("clip.use_gelu", True)
    writer.add_uint32("clip.vision.image_size", IMAGE_SIZE)
    writer.add_uint32("clip.vision.patch_size", PATCH)
    writer.add_uint32("clip.vision.embedding_length", VISION_WIDTH)
    writer.add_uint32("clip.vision.feed_forward_length", VISION_FEED_FORWARD)
    writer.add_uint32("clip.vision.projection_dim", WIDTH)
    writer.add_uint32("clip.vision.block_count", VISION_LAYERS)
    writer.add_uint32("clip.vision.attention.head_count", VISION_HEADS)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    writer.add_array("clip.vision.image_mean", [0.5, 0.5, 0.5])
    writer.add_array("clip.vision.image_std", [0.5, 0.5, 0.5])

    def kind(name: str, tensor: Any) -> Any:
        is_weight = name.endswith(".weight") and tensor.ndim > 1
        # llama.cpp adds position embeddings as they are: it wants those in float32.
        if is_weight and "position_embd" not in name:
            return gguf.GGMLQuantizationType.F16
        return gguf.GGMLQuantizationType.F32

    _write(writer, vision_tensors(Weights(SEED + 1)), kind)


def _write(
    writer: Any, tensors: Iterator[tuple[str, Any]], kind: Callable[[str, Any], Any]
) -> None:
    """Add `tensors`, each quantised as `kind` says, and write the file out."""
    import gguf

    for name, tensor in tensors:
        dtype = kind(name, tensor)
        writer.add_tensor(name, gguf.quants.quantize(tensor, dtype), raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def recipe_key() -> str:
    """Changes when the files would: a digest of this module's own text."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
