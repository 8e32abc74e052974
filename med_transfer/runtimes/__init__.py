"""Computing a bundle's network with a runtime other than torch: exported once, checked on real scans, then selected.

::

    bundle/models/openvino-int8/
      export.json                 ExportRecord: hash of the weights, result of the check, speed, SHA-256 of each file
      encoder0.xml, encoder0.bin  the core of each distinct encoder (``Encoder.core``); for ONNX encoder0.onnx

Head, calibration, novelty, pooling over slices or tiles, and all explanations stay in torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
