"""What a run leaves behind, on a disk or behind a URI: its folder, its states, and who may write there."""
