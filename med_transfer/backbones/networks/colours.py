"""Colour normalisation of networks trained on photographs, and three CT windows used as red, green and blue."""

Colours = tuple[float, float, float]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LITE_MEAN, LITE_STD = (127 / 255, 127 / 255, 127 / 255), (128 / 255, 128 / 255, 128 / 255)  # (x - 127) / 128 of bytes

THREE_WINDOWS_HU = ((-1350.0, 150.0), (-160.0, 240.0), (-500.0, 1300.0))  # lung, soft tissue, bone
THREE_WINDOWS_RANGE_HU = (-1350.0, 1300.0)  # the input must cover this range to cut each window from it
