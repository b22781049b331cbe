"""Decide about image files with gate.onnx alone: NumPy, Pillow and ONNX Runtime, no torch.

python docs/onnx_runtime.py gate.onnx photo.jpg ...
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image

gate = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
facts = gate.get_modelmeta().custom_metadata_map
names, classes = [output.name for output in gate.get_outputs()], json.loads(facts["classes"])
for path in sys.argv[2:]:
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    if facts["channels"] == "1":
        picture = picture.convert("L")
    pixels = np.atleast_3d(picture).transpose(2, 0, 1)[None]  # (1, C, H, W) uint8, of any size
    values = (each.item() for each in gate.run(None, {"image": pixels}))
    said = dict(zip(names, values, strict=True))
    if "label" in said:
        said["label"] = classes[said["label"]]
    print(path, said)  # noqa: T201
