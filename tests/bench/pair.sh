#!/bin/sh
# The curl pair that pgw-forwarder replaces, as cron runs it.
curl -s "http://$EXPORTER_ADDR/$EXPORTER_METRIC" |
    curl -s --data-binary @- "http://$PGW_ADDR/metrics/job/$PGW_JOB/instance/$PGW_INSTANCE"
