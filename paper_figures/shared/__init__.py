"""What several figures share: cells of the plan, curves of accuracy, and how they are drawn."""
