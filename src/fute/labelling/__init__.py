"""Black boxes × inputs → predictions, each asked for once and kept."""
