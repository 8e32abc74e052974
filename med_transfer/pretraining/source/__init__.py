"""Source scans: finding, reading and cropping them, and views of the crops."""
