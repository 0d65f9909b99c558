"""WebDataset archives of tests."""

import io
import json
import tarfile


def write_tar(path, files, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return str(path)


def sample(one, prefix="", **texts):
    key = f"{prefix}{one.number:09d}"
    metadata = json.dumps({"caption": one.captions[1], "url": "x", "status": "success"})
    files = {f"{key}.jpg": one.image, f"{key}.json": metadata.encode()}
    return files | {f"{key}.{suffix}": text.encode() for suffix, text in texts.items()}
