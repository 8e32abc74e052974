"""From the scan's grid to the network's, in one step."""
