"""OCI images built with buildah and run as in a cluster.

They run without root, on a read-only file system, as process number 1.

Neither an engine nor a registry is required: if the base cannot be pulled, Debian's packages replace it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from tests.e2e.server import Server

_BASE = "docker.io/library/python:3.11-slim"
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_TOOLS = ("buildah", "mmdebstrap", "unshare")

#: Runs a command as an engine does, given the root, the user and folders to mount: `source target` pairs, then `--`.
_CONTAINER = """\
root=$1 user=$2; shift 2
mount --bind "$root" "$root"
mount -t tmpfs tmpfs "$root/tmp"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
for file in hosts resolv.conf; do touch "$root/etc/$file"; mount --bind "/etc/$file" "$root/etc/$file"; done
while [ "$1" != -- ]; do mkdir -p "$root$2"; mount --bind "$1" "$root$2"; shift 2; done; shift
mount -o remount,bind,ro "$root"
exec chroot --userspec="$user" "$root" "$@"
"""


def what_is_missing() -> str | None:
    """Return the reason why no image can be built here."""
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} not found"
    return "needs root" if os.geteuid() != 0 else None


class Image:
    """Image and its file system.

    Attributes:
        config: its run configuration, as in https://github.com/opencontainers/image-spec/blob/main/config.md.
        root: its files, in a writable folder.
    """

    def __init__(self, buildah: Callable[..., str], name: str) -> None:
        #: Commands with which engines describe the image, `docker history` among them.
        self.told = buildah("inspect", "--type", "image", name)
        self.config: dict[str, Any] = json.loads(self.told)["OCIv1"]["config"]
        self.root = Path(buildah("mount", buildah("from", "--pull-never", name)))

    def find(self, *names: str) -> list[Path]:
        """Find programs of the image by these names."""
        places = [self.root / folder for folder in ("bin", "usr/bin", "usr/local/bin", "app/.venv/bin")]
        return [place / name for place in places for name in names if (place / name).exists()]

    @property
    def size(self) -> int:
        """Return the bytes on disk, unpacked."""
        used = subprocess.check_output(["du", "--summarize", "--one-file-system", "--bytes", self.root], text=True)
        return int(used.split()[0])


class Builder:
    """Builder of images in a folder; nothing of them is left on the machine.

    Args:
        folder: folder for all of buildah's files.
        home: BentoML's home with the Bentos.
    """

    def __init__(self, folder: Path, home: Path) -> None:
        self._folder = folder
        storage = {"driver": '"overlay"', "runroot": f'"{folder / "run"}"', "graphroot": f'"{folder / "graph"}"'}
        (folder / "storage.conf").write_text("\n".join(["[storage]", *(f"{k} = {v}" for k, v in storage.items())]))
        (folder / "containers.conf").write_text(f"[containers]\nvolumes = {json.dumps(self._as_pip_is_configured())}\n")
        self._environment = {
            **os.environ,
            "BENTOML_HOME": str(home),
            "BENTOML_DO_NOT_TRACK": "true",
            "BUILDAH_ISOLATION": "chroot",
            "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
            "CONTAINERS_CONF": str(folder / "containers.conf"),
        }

    def containerize(self, tag: str, **variables: str) -> Image:
        """Build the image of a Bento by `bentoml containerize` with these variables."""
        self._environment |= variables
        self._make_base()
        name = f"localhost/{tag}"
        command = ["-m", "bentoml", "containerize", "--backend", "buildah", "-t", name, tag]
        self._run(sys.executable, *command)
        return Image(self._buildah, name)

    def remove_all(self) -> None:
        """Free the disk space."""
        self._buildah("rm", "--all")
        self._buildah("rmi", "--all", "--force")

    def _make_base(self) -> None:
        if self._succeeds("pull", "--quiet", _BASE):
            return
        archive = self._folder / "base.tar"
        packages = "python3,python3-pip,python3-venv,ca-certificates"
        self._run("mmdebstrap", "--variant=minbase", f"--include={packages}", "bookworm", str(archive))
        base = self._buildah("from", "scratch")
        self._buildah("add", base, str(archive), "/")
        self._buildah("copy", base, str(_CERTIFICATES), str(_CERTIFICATES))
        # Debian forbids pip to install next to apt; the base image that this replaces has no such mark.
        self._buildah("run", base, "--", "sh", "-c", "rm -f /usr/lib/python3*/EXTERNALLY-MANAGED")
        self._buildah("commit", "--rm", base, _BASE)
        archive.unlink()

    def _as_pip_is_configured(self) -> list[str]:
        """Mount the folders of this machine's pip configuration, where uv finds wheels."""
        listed = subprocess.check_output([sys.executable, "-m", "pip", "config", "list"], text=True)
        said = dict(line.split("=", 1) for line in listed.splitlines() if "=" in line)
        folders = said.get("global.find-links", "''").strip("'").split()
        settings = self._folder / "configuration" / "uv" / "uv.toml"
        settings.parent.mkdir(parents=True)
        settings.write_text(f"system-certs = true\n[pip]\nfind-links = {json.dumps(folders)}\n")
        return [f"{settings.parents[1]}:/root/.config:ro", *(f"{folder}:{folder}:ro" for folder in folders)]

    def _buildah(self, *arguments: str) -> str:
        return self._run("buildah", *arguments)

    def _run(self, *command: str) -> str:
        run = subprocess.run(command, env=self._environment, capture_output=True, text=True)
        assert run.returncode == 0, f"{' '.join(command)}:\n{run.stdout}{run.stderr}"
        return run.stdout.strip()

    def _succeeds(self, *arguments: str) -> bool:
        return subprocess.run(["buildah", *arguments], env=self._environment, capture_output=True).returncode == 0


class ImageServer(Server):
    """Server of an image, in a process namespace of its own.

    Args:
        volumes: folders of this machine by their mount points; apart from them only /tmp is writable.
        command: command that replaces the image's own, which serves.
    """

    def __init__(
        self,
        image: Image,
        environment: Mapping[str, str],
        volumes: Mapping[str, Path],
        command: Sequence[str] = (),
    ) -> None:
        self._image = image
        self._variables = [f"{name}={value}" for name, value in environment.items()]
        self._volumes = volumes
        self._replacement = command
        super().__init__(dict(environment), bento=None)

    def _command(self, arguments: Sequence[str]) -> Sequence[str]:
        uid = self._image.root.joinpath("etc/passwd").read_text().split(f"\n{self._image.config['User']}:")[1]
        user, group = uid.split(":")[1:3]
        mounts = [part for target, source in self._volumes.items() for part in (str(source), target)]
        space = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-euc", _CONTAINER, "container"]
        return [
            *space, str(self._image.root), f"{user}:{group}", *mounts, "--",
            "env", *self._image.config["Env"], *self._variables, f"BENTOML_PORT={self.port}",
            *self._image.config["Entrypoint"], *self._replacement,
        ]  # fmt: skip

    @property
    def first_process(self) -> psutil.Process:
        """Return the process that is number 1 in its namespace."""
        (first,) = psutil.Process(self._process.pid).children()
        return first

    def terminate(self) -> None:
        self.first_process.terminate()


@contextmanager
def running(
    image: Image,
    environment: Mapping[str, str],
    volumes: Mapping[str, Path],
    *,
    models: int = 1,
    command: Sequence[str] = (),
) -> Iterator[ImageServer]:
    """Run a server of the image until all models are ready."""
    server = ImageServer(image, environment, volumes, command)
    try:
        server.wait_for(r"\) is served\. Try:", times=models, timeout=120 + 30 * models)
        yield server
    finally:
        server.stop()
