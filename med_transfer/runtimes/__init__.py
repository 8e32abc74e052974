"""A bundle's network computed by another runtime than torch: exported once, checked on real scans, then chosen.

::

    bundle/models/openvino-int8/
      export.json                 ExportRecord: of which weights, what the check said, how fast, SHA-256 of each file
      encoder0.xml, encoder0.bin  the core of each different encoder (``Encoder.core``); ONNX: encoder0.onnx

Head, calibration, novelty, pooling over slices or tiles, and every explanation stay in torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
