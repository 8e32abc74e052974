"""What the node has to do, in a database that survives a kill at any moment.

A study goes ``received -> complete -> predicted -> sent -> committed``, or ends as ``dead`` with a reason. Each step is
one transaction and may be done again without harm: instances are known by their UID, results have UIDs that follow from
what they were made of, and one is sent to one destination once. A late instance opens the study again.

``Queue`` says what may be done; the tables lie in ``schema``, and what a step does to them in the module of its stage:
``receiving``, ``completing``, ``predicting``, ``sending``, ``keeping``; ``answering`` holds what people see and say.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
