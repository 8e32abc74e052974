"""What metrics.json and a bundle say: plain records, which import nothing that computes."""
