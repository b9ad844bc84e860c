"""Pictures of a space. The only room with plotting libraries."""
