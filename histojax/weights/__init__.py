"""Reading, converting, fetching and writing of published weights. numpy only: jax is never imported here."""
