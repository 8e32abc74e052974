"""A bundle's network computed by another runtime than torch: exported once, checked on real scans, then chosen.

::

    bundle/models/openvino-int8/
      export.json                 ExportRecord: of which weights, what the check said, how fast, SHA-256 of each file
      encoder0.xml, encoder0.bin  the core of each different encoder (``Encoder.core``); ONNX: encoder0.onnx

Head, calibration, novelty, pooling over slices or tiles, and every explanation stay in torch.
"""

from __future__ import annotations

from med_transfer.runtimes.choice import ChosenNetwork, Runtime, choose_network

__all__ = ["ChosenNetwork", "Runtime", "choose_network"]
