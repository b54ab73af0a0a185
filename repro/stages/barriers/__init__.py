"""Loss barriers on straight lines between networks (paper, section 4)."""
