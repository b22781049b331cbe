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
    with Image.open(path) as picture:  # grey by way of RGB, as everywhere in this package
        pixels = np.asarray(
            picture.convert("RGB").convert("L" if facts["channels"] == "1" else "RGB")
        )
    image = np.atleast_3d(pixels).transpose(2, 0, 1)[None]  # (1, C, H, W) uint8, of any size
    said = {name: value[0].item() for name, value in zip(names, gate.run(None, {"image": image}))}
    print(path, said | {"label": classes[said["label"]]} if "label" in said else said)
