"""What is computed: plain Python that never imports Prefect or Great Expectations."""
