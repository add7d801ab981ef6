"""The recipes of the lab's images, as far as no daemon is needed for them."""

import tarfile
from fnmatch import fnmatch
from io import BytesIO
from pathlib import Path

import pytest

from homeport.lab import LabError
from homeport.lab.content import llama_image, open_webui_image, root


def layer(tars: list[Path], trees: list[root.Tree]) -> dict[str, tarfile.TarInfo]:
    out = BytesIO()
    root.write_layer(out, tars, trees, {"usr/local/bin/python": "/usr/bin/python3"})
    out.seek(0)
    with tarfile.open(fileobj=out) as made:
        return {member.name: member for member in made}


def test_a_layer_is_root_s_and_of_one_time(tmp_path: Path) -> None:
    (tmp_path / "a" / "tests").mkdir(parents=True)
    (tmp_path / "a" / "code.py").write_text("pass\n")
    (tmp_path / "a" / "tests" / "test_code.py").write_text("pass\n")
    made = layer([], [root.Tree(source=tmp_path, at="srv", unwanted=("*/tests/*",))])
    assert "srv/a/code.py" in made
    assert "srv/a/tests/test_code.py" not in made
    assert {(member.uid, member.gid, member.mtime) for member in made.values()} == {
        (0, 0, root.EPOCH)
    }
    assert made["usr/local/bin/python"].issym()


def test_a_root_is_trimmed(tmp_path: Path) -> None:
    tar = tmp_path / "root.tar"
    with tarfile.open(tar, "w") as source:
        for name in ("./usr/bin/curl", "./usr/share/doc/curl/copyright", "./dev/null"):
            source.addfile(tarfile.TarInfo(name))
    made = layer([tar], [])
    assert "usr/bin/curl" in made
    assert not [name for name in made if "doc" in name or "dev" in name]


def test_a_failed_command_is_told_in_its_own_words() -> None:
    with pytest.raises(LabError, match="no such suite"):
        root.run(["sh", "-c", "echo no such suite >&2; exit 3"])


def test_open_webui_is_pinned_whole_and_has_none_of_the_giants() -> None:
    lines = open_webui_image.REQUIREMENTS.read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert pins["open-webui"] == open_webui_image.VERSION
    giants = {"torch", "transformers", "sentence-transformers", "onnxruntime", "pyarrow", "scipy"}
    assert not giants & {name.lower() for name in pins}


def test_pip_is_told_the_image_s_python_and_no_index() -> None:
    command = open_webui_image.pip_command(Path("/target"))
    assert f"--python-version={open_webui_image.PYTHON}" in command
    assert "--no-deps" in command
    assert not [word for word in command if "index" in word or "find-links" in word]


@pytest.mark.parametrize("name", ["s3", "sts", "endpoints.json", "partitions.json"])
def test_what_object_storage_needs_stays(name: str) -> None:
    path = f"botocore/data/{name}" + ("" if "." in name else "/2006/service-2.json.gz")
    assert not [p for p in open_webui_image.UNWANTED_IN_SITE if fnmatch(path, p)]


@pytest.mark.parametrize("name", ["ec2", "sqs", "s3control", "ssm", "states", "sso"])
def test_what_other_cloud_services_need_goes(name: str) -> None:
    path = f"botocore/data/{name}/2006/service-2.json.gz"
    assert [p for p in open_webui_image.UNWANTED_IN_SITE if fnmatch(path, p)]


def test_the_images_keep_the_published_interface() -> None:
    assert 'ENTRYPOINT ["/app/llama-server"]' in llama_image.CHANGES
    assert "ENV LLAMA_ARG_HOST=0.0.0.0" in llama_image.CHANGES
    assert 'CMD ["bash", "start.sh"]' in open_webui_image.CHANGES
    assert "WORKDIR /app/backend" in open_webui_image.CHANGES


def test_the_keys_follow_the_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_webui_image.recipe_key()
    changed = tmp_path / "requirements.txt"
    changed.write_text(open_webui_image.REQUIREMENTS.read_text() + "one-more==1.0\n")
    monkeypatch.setattr(open_webui_image, "REQUIREMENTS", changed)
    assert open_webui_image.recipe_key() != before
    assert llama_image.recipe_key() != before
