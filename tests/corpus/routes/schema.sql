-- What the statements of the corpus name.
create table accounts (
    id bigint primary key, owner text not null default '', balance numeric not null default 0,
    opened timestamptz default now(), tags text[], profile jsonb, note text
);
create table orders (
    id bigserial primary key, account_id bigint references accounts (id), amount numeric, status text, placed date,
    region text
);
create index orders_by_account on orders (account_id);
create table events (id bigint, kind text, at timestamptz, payload jsonb) partition by range (id);
create table events_1 partition of events for values from (0) to (1000);
create table tree (id int primary key, parent int, label text);
create table documents (id int primary key, title text, body text, search tsvector);
create view rich as select * from accounts where balance > 1000;
create materialized view totals as select account_id, sum(amount) as total from orders group by account_id;
create sequence ticket;
create type mood as enum ('sad', 'ok', 'happy');
create domain percent as int check (value between 0 and 100);
create function add(a int, b int) returns int language sql immutable as 'select a + b';
create function charge(account bigint, amount numeric) returns numeric language sql as 'select amount';
create procedure settle(account bigint) language plpgsql as 'begin end';

-- pgbench
create table pgbench_accounts (aid int primary key, bid int, abalance int, filler char(84));
create table pgbench_branches (bid int primary key, bbalance int, filler char(88));
create table pgbench_tellers (tid int primary key, bid int, tbalance int, filler char(84));
create table pgbench_history (tid int, bid int, aid int, delta int, mtime timestamp, filler char(22));

-- TPC-C
create table warehouse (
    w_id int primary key, w_name text, w_street_1 text, w_city text, w_state text, w_zip text, w_tax numeric,
    w_ytd numeric
);
create table district (d_id int, d_w_id int, d_next_o_id int, d_tax numeric, primary key (d_w_id, d_id));
create table customer (
    c_id int, c_d_id int, c_w_id int, c_first text, c_middle text, c_last text, c_discount numeric, c_credit text,
    c_balance numeric, c_data text, primary key (c_w_id, c_d_id, c_id)
);
create table history (
    h_c_d_id int, h_c_w_id int, h_c_id int, h_d_id int, h_w_id int, h_date timestamp, h_amount numeric, h_data text
);
create table oorder (
    o_id int, o_d_id int, o_w_id int, o_c_id int, o_entry_d timestamp, o_carrier_id int, o_ol_cnt int,
    o_all_local int, primary key (o_w_id, o_d_id, o_id)
);
create table new_order (no_o_id int, no_d_id int, no_w_id int, primary key (no_w_id, no_d_id, no_o_id));
create table order_line (
    ol_o_id int, ol_d_id int, ol_w_id int, ol_number int, ol_i_id int, ol_supply_w_id int, ol_quantity int,
    ol_amount numeric, ol_delivery_d timestamp, ol_dist_info text, primary key (ol_w_id, ol_d_id, ol_o_id, ol_number)
);
create table item (i_id int primary key, i_name text, i_price numeric, i_data text);
create table stock (
    s_i_id int, s_w_id int, s_quantity int, s_data text, s_dist_01 text, s_ytd int, s_order_cnt int,
    s_remote_cnt int, primary key (s_w_id, s_i_id)
);

-- object-relational mappers
create table auth_user (id bigserial primary key, username text, active boolean);
create table schema_migrations (version text primary key);
