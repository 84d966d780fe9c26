"""Built-in functions that a read must not call, by name: they write, lock, notify or fail on a standby."""

from __future__ import annotations

from .statement import Effect

# Names come from pg_proc of PostgreSQL 12 to 18 (provolatile = 'v'), judged by what each does rather than by
# its volatility: clock_timestamp() or pg_relation_size() are volatile and harmless. A name counts in any
# schema, since a shape does not tell search_path and extensions are installed anywhere.

_SESSION_LOCKS = """
    pg_advisory_lock pg_advisory_lock_shared pg_try_advisory_lock pg_try_advisory_lock_shared
"""
_SESSION_UNLOCKS = """
    pg_advisory_unlock pg_advisory_unlock_shared pg_advisory_unlock_all
"""
# Allowed on a standby, but a lock taken there excludes nobody on the primary or on another replica.
_TRANSACTION_LOCKS = """
    pg_advisory_xact_lock pg_advisory_xact_lock_shared pg_try_advisory_xact_lock
    pg_try_advisory_xact_lock_shared
"""
_SEQUENCE_STATE = "currval lastval"
# They answer only where no recovery is going on, or belong to one server's open transaction.
_PRIMARY_ONLY = """
    pg_current_wal_lsn pg_current_wal_insert_lsn pg_current_wal_flush_lsn pg_walfile_name
    pg_walfile_name_offset pg_current_xlog_location pg_current_xlog_insert_location
    pg_current_xlog_flush_location pg_xlogfile_name pg_xlogfile_name_offset pg_export_snapshot lo_open
    lo_close loread lo_lseek lo_lseek64 lo_tell lo_tell64 pg_available_wal_summaries pg_wal_summary_contents
    pg_get_wal_summarizer_state bt_index_parent_check
"""
# The query they run is a text that no analysis of this statement sees.
_RUNS_TEXT = """
    query_to_xml query_to_xmlschema query_to_xml_and_xmlschema cursor_to_xml cursor_to_xmlschema ts_stat
    ts_rewrite dblink dblink_connect dblink_connect_u dblink_disconnect dblink_exec dblink_open dblink_fetch
    dblink_close dblink_send_query dblink_get_result dblink_cancel_query postgres_fdw_disconnect
    postgres_fdw_disconnect_all crosstab crosstab2 crosstab3 crosstab4 crosstabn connectby xpath_table
"""
_WRITES = """
    nextval setval txid_current pg_current_xact_id pg_notify lo_creat lo_create lo_export lo_from_bytea
    lo_import lo_put lo_truncate lo_truncate64 lo_unlink lowrite brin_desummarize_range
    brin_summarize_new_values brin_summarize_range gin_clean_pending_list pg_cancel_backend
    pg_terminate_backend pg_reload_conf pg_rotate_logfile pg_rotate_logfile_old
    pg_log_backend_memory_contexts pg_get_process_memory_contexts pg_backup_start pg_backup_stop
    pg_start_backup pg_stop_backup pg_create_restore_point pg_switch_wal pg_switch_xlog pg_promote
    pg_wal_replay_pause pg_wal_replay_resume pg_xlog_replay_pause pg_xlog_replay_resume
    pg_log_standby_snapshot pg_copy_logical_replication_slot pg_copy_physical_replication_slot
    pg_create_logical_replication_slot pg_create_physical_replication_slot pg_drop_replication_slot
    pg_replication_slot_advance pg_sync_replication_slots pg_logical_slot_get_binary_changes
    pg_logical_slot_get_changes pg_logical_slot_peek_binary_changes pg_logical_slot_peek_changes
    pg_logical_emit_message pg_replication_origin_advance pg_replication_origin_create
    pg_replication_origin_drop pg_replication_origin_session_reset pg_replication_origin_session_setup
    pg_replication_origin_xact_reset pg_replication_origin_xact_setup pg_replication_origin_progress
    pg_replication_origin_session_progress pg_replication_origin_session_is_setup
    pg_import_system_collations pg_extension_config_dump pg_nextoid pg_stop_making_pinned_objects
    pg_stat_reset pg_stat_reset_backend_stats pg_stat_reset_replication_slot pg_stat_reset_shared
    pg_stat_reset_single_function_counters pg_stat_reset_single_table_counters pg_stat_reset_slru
    pg_stat_reset_subscription_stats pg_stat_force_next_flush pg_restore_relation_stats
    pg_restore_attribute_stats pg_clear_relation_stats pg_clear_attribute_stats
    binary_upgrade_add_sub_rel_state binary_upgrade_create_empty_extension binary_upgrade_replorigin_advance
    binary_upgrade_set_missing_value binary_upgrade_set_next_array_pg_type_oid
    binary_upgrade_set_next_attribute_versions binary_upgrade_set_next_heap_pg_class_oid
    binary_upgrade_set_next_heap_relfilenode binary_upgrade_set_next_index_pg_class_oid
    binary_upgrade_set_next_index_relfilenode binary_upgrade_set_next_multirange_array_pg_type_oid
    binary_upgrade_set_next_multirange_pg_type_oid binary_upgrade_set_next_pg_authid_oid
    binary_upgrade_set_next_pg_enum_oid binary_upgrade_set_next_pg_tablespace_oid
    binary_upgrade_set_next_pg_type_oid binary_upgrade_set_next_toast_pg_class_oid
    binary_upgrade_set_next_toast_relfilenode binary_upgrade_set_record_init_privs pg_file_write
    pg_file_sync pg_file_rename pg_file_unlink pg_logdir_ls pg_prewarm autoprewarm_dump_now
    autoprewarm_start_worker pg_stat_statements_reset pg_buffercache_evict pg_truncate_visibility_map
    heap_force_kill heap_force_freeze addgeometrycolumn dropgeometrycolumn dropgeometrytable
    updategeometrysrid populate_geometry_columns create_hypertable drop_chunks create_distributed_table
    create_reference_table undistribute_table
"""

SET_CONFIG = "set_config"

_SETS_SEED = "setseed"

FUNCTIONS: dict[str, frozenset[Effect]] = {
    **dict.fromkeys(_SESSION_LOCKS.split(), frozenset({Effect.ADVISORY_LOCK})),
    **dict.fromkeys(_SESSION_UNLOCKS.split(), frozenset({Effect.ADVISORY_UNLOCK})),
    **dict.fromkeys(_TRANSACTION_LOCKS.split(), frozenset[Effect]()),
    **dict.fromkeys(_SEQUENCE_STATE.split(), frozenset({Effect.SEQUENCE_STATE})),
    **dict.fromkeys(_PRIMARY_ONLY.split(), frozenset[Effect]()),
    **dict.fromkeys(_RUNS_TEXT.split(), frozenset({Effect.RUNS_CODE, Effect.WRITES})),
    **dict.fromkeys(_WRITES.split(), frozenset({Effect.WRITES})),
    _SETS_SEED: frozenset({Effect.SETS_PARAMETER}),
}
"""Function name → what a call leaves behind; being in it at all keeps a statement on the primary."""

PARAMETER_OF: dict[str, str] = {_SETS_SEED: "seed"}
"""Functions that set one parameter of the session, by another name than set_config()."""
