"""Small archives in the official formats, and a local mirror that serves them."""

import contextlib
import gzip
import hashlib
import http.server
import io
import json
import pickle
import pickletools
import struct
import tarfile
import threading
import time

import numpy as np

from ntklab.data import sources


def idx(array):
    """The bytes of an idx file: magic, big-endian shape, values."""
    head = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(head + array.astype(np.uint8).tobytes(), mtime=0)


def digits_28(n, seed):
    """`n` random 28x28 images whose labels run 0..9 and over again."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 28, 28), np.uint8), np.arange(n) % 10


def mnist_files(n_train=40, n_test=20):
    """File name -> bytes of a small MNIST."""
    (x, y), (u, v) = digits_28(n_train, 0), digits_28(n_test, 1)
    return dict(zip(sources.IDX_FILES, map(idx, (x, y, u, v)), strict=True))


def write_mnist(root, files=None, name="mnist"):
    """Lay a small MNIST out as the official archives are."""
    (root / name).mkdir(parents=True, exist_ok=True)
    for file, blob in (files or mnist_files()).items():
        (root / name / file).write_bytes(blob)
    return root


def cifar_content(index, n=20):
    """What a batch holds: planes of bytes and labels 0..9 over and over."""
    rng = np.random.default_rng(index)
    return {
        b"batch_label": b"a batch",
        b"labels": [i % 10 for i in range(n)],
        b"data": rng.integers(0, 256, (n, 3072), np.uint8),
        b"filenames": [b"x.png"] * n,
    }


def as_python_2(blob):
    """A pickle of protocol 3 as Python 2 and an early NumPy wrote it, like the official files."""
    out, ops = b"", list(pickletools.genops(blob))
    ends = [position for _, _, position in ops[1:]] + [len(blob)]
    for (op, arg, start), end in zip(ops, ends, strict=True):
        piece = blob[start:end]
        if op.name == "PROTO":
            piece = b"\x80\x02"
        elif op.name == "SHORT_BINBYTES":
            piece = b"U" + piece[1:]
        elif op.name == "BINBYTES":
            piece = b"T" + piece[1:]
        elif op.name == "BINUNICODE":
            piece = b"U" + bytes([len(arg)]) + arg.encode()
        out += piece
    return out.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def cifar_files(n=20):
    """Batch name -> bytes of a small CIFAR-10."""
    return {
        batch: as_python_2(pickle.dumps(cifar_content(i, n), protocol=3))
        for i, batch in enumerate(sources.CIFAR_BATCHES)
    }


def write_cifar(root, files=None, inexact=None):
    """Lay a small CIFAR-10 out as the official archive is unpacked."""
    folder = root / sources.CIFAR_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for batch, blob in (files or cifar_files()).items():
        (folder / batch).write_bytes(blob)
    if inexact is not None:
        (folder / "inexact.json").write_text(json.dumps(inexact))
    return root


def cifar_archive(files=None):
    """The bytes of a small cifar-10-python.tar.gz."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for batch, blob in (files or cifar_files()).items():
            member = tarfile.TarInfo(f"{sources.CIFAR_FOLDER}/{batch}")
            member.size = len(blob)
            archive.addfile(member, io.BytesIO(blob))
    return buffer.getvalue()


class Mirror(http.server.ThreadingHTTPServer):
    """Serves `files` (path -> bytes) on this machine and writes down every GET.

    A path under /gone/ is 404, under /wrong/ other bytes, under /short/ ends half-way, under
    /slow/ trickles; ranges are honoured.
    """

    daemon_threads = True

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.gets = files, []
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_response(200)
        self.end_headers()

    def do_GET(self):
        _, manner, file = self.path.split("/", 2)
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        self.server.gets.append((manner, file, start))
        blob = self.server.files.get(file)
        if manner == "gone" or blob is None:
            return self.send_error(404)
        if start >= len(blob):
            return self.send_error(416)
        blob = bytes(len(blob)) if manner == "wrong" else blob
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(blob) - start))
        self.end_headers()
        end = len(blob) // 2 if manner == "short" else len(blob)
        slow = manner == "slow" and len(blob) > 1000
        step = len(blob) // 20 if slow else len(blob)
        for i in range(start, end, step):
            self.wfile.write(blob[i : min(i + step, end)])
            if slow:
                time.sleep(0.05)

    def handle_one_request(self):
        with contextlib.suppress(ConnectionError):
            super().handle_one_request()

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(files):
    """A `Mirror` in a thread of its own, stopped at the end."""
    mirror = Mirror(files)
    thread = threading.Thread(target=mirror.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield mirror
    finally:
        mirror.shutdown()
        thread.join()
        mirror.server_close()


def archives(files, mirror_urls, prefix=""):
    """`sources.Archive` for each file, with true checksums."""
    return tuple(
        sources.Archive(
            prefix + file, hashlib.sha256(blob).hexdigest(), tuple(u + file for u in mirror_urls)
        )
        for file, blob in files.items()
    )
