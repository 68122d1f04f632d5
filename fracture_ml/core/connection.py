"""What every connection to Postgres begins with, the product's own and Optuna's."""

# A machine that loses its power or its network is given up within a minute or so, by both ends, and its locks are free:
# silence is asked about three times, and what is sent must be acknowledged. By itself Linux takes over two hours.
KEPT_ALIVE = {
    "connect_timeout": 10,
    "application_name": "fracture",
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,  # milliseconds
}
# Told to Postgres with each login, so that it holds in one that is not ours too. On a Unix socket the tcp_ ones are 0.
TOLD_TO_POSTGRES = {
    "tcp_keepalives_idle": "30s",
    "tcp_keepalives_interval": "10s",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "60s",
    # Longer than anybody works under a lock that others wait for. A claim waits for nobody; how long it may be idle is
    # not limited here (docs/decisions/022-claims.md).
    "lock_timeout": "5min",
}
