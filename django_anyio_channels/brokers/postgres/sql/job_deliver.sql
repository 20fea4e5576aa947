-- Deliver work to a node: first what is due, then what is new.
-- Expects $1 source, $2 topic and $3 consumer group, or NULL if the source is a queue, $4 node, $5 number of this call,
-- $6 how many at most, $7 seconds for which other nodes do not get them.
-- Returns a row for each delivery, what is due first: id, position or NULL, number of deliveries, message as bytes, or else
-- as in a history; and two NULLs. Then a row with NULLs, and whether something was lost before it was delivered, and
-- seconds until something is due again, or NULL. The same number of a call brings the same again.
SELECT * FROM {schema}.django_anyio_channels_deliver(
    $1::bytea, $2::bytea, $3::bytea, $4::text, $5::bigint, $6::int, $7::float8
)
