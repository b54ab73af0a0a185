"""How jobs are started and watched: make rules, Ray, logs, status."""
