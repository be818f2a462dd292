"""[Ray Train] Data-parallel training on sound tiles with synthetic cracks."""
