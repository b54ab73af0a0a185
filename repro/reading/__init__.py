"""What is read out of finished artifacts: tables, networks, notebooks."""
