"""Class names, the record of one scan's prediction, and predictions.csv."""
