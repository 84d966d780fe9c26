-- What the statements of this folder name: sharded tables, hash-partitioned by their key, and reference tables.
create schema archive;
create table customers (id bigint not null, name text, country int, customer_id int, credit int default 0,
    primary key (id)) partition by hash (id);
create table orders (customer_id bigint not null, id int, amount int, status text, country int, parent int,
    placed timestamp, note text, primary key (customer_id, id)) partition by hash (customer_id);
create table items (customer_id bigint not null, order_id int, id int, price int, quantity int, sku text,
    primary key (customer_id, order_id, id)) partition by hash (customer_id);
create table events (customer_id bigint not null, id int, kind text, at timestamp, payload jsonb)
    partition by hash (customer_id);
create table archive.orders (owner_id bigint not null, id int, customer_id int, amount int)
    partition by hash (owner_id);
create schema first;
create table first.parts (a_id bigint not null, id int) partition by hash (a_id);
create table "Parcels" ("customerId" bigint not null, id int, "Weight" int) partition by hash ("customerId");
create table countries (id int primary key, name text, customer_id int);
create table settings (name text primary key, value text);

-- TPC-C
create table warehouse (w_id int not null, w_name text, w_street_1 text, w_street_2 text, w_city text, w_state text,
    w_zip text, w_tax numeric, w_ytd numeric, primary key (w_id)) partition by hash (w_id);
create table district (d_w_id int not null, d_id int not null, d_name text, d_street_1 text, d_street_2 text,
    d_city text, d_state text, d_zip text, d_tax numeric, d_ytd numeric, d_next_o_id int,
    primary key (d_w_id, d_id)) partition by hash (d_w_id);
create table customer (c_w_id int not null, c_d_id int not null, c_id int not null, c_first text, c_middle text,
    c_last text, c_street_1 text, c_street_2 text, c_city text, c_state text, c_zip text, c_phone text,
    c_since timestamp, c_credit text, c_credit_lim numeric, c_discount numeric, c_balance numeric,
    c_ytd_payment numeric, c_payment_cnt int, c_delivery_cnt int, c_data text,
    primary key (c_w_id, c_d_id, c_id)) partition by hash (c_w_id);
create table history (h_c_id int, h_c_d_id int, h_c_w_id int, h_d_id int, h_w_id int not null, h_date timestamp,
    h_amount numeric, h_data text) partition by hash (h_w_id);
create table oorder (o_w_id int not null, o_d_id int not null, o_id int not null, o_c_id int, o_carrier_id int,
    o_ol_cnt int, o_all_local int, o_entry_d timestamp, primary key (o_w_id, o_d_id, o_id))
    partition by hash (o_w_id);
create table new_order (no_w_id int not null, no_d_id int not null, no_o_id int not null,
    primary key (no_w_id, no_d_id, no_o_id)) partition by hash (no_w_id);
create table order_line (ol_w_id int not null, ol_d_id int not null, ol_o_id int not null, ol_number int not null,
    ol_i_id int, ol_delivery_d timestamp, ol_amount numeric, ol_supply_w_id int, ol_quantity int, ol_dist_info text,
    primary key (ol_w_id, ol_d_id, ol_o_id, ol_number)) partition by hash (ol_w_id);
create table stock (s_w_id int not null, s_i_id int not null, s_quantity int, s_ytd numeric, s_order_cnt int,
    s_remote_cnt int, s_data text, s_dist_01 text, s_dist_02 text, primary key (s_w_id, s_i_id))
    partition by hash (s_w_id);
create table item (i_id int primary key, i_name text, i_price numeric, i_data text, i_im_id int);

-- pgbench
create table pgbench_accounts (aid int not null, bid int, abalance int, filler text, primary key (aid))
    partition by hash (aid);
create table pgbench_tellers (tid int not null, bid int, tbalance int, filler text, primary key (tid))
    partition by hash (tid);
create table pgbench_branches (bid int not null, bbalance int, filler text, primary key (bid))
    partition by hash (bid);
create table pgbench_history (tid int, bid int, aid int not null, delta int, mtime timestamp, filler text)
    partition by hash (aid);

-- Django
create table shop_order (id int, customer_id bigint not null, status text, total int, created timestamp,
    is_paid boolean, primary key (customer_id, id)) partition by hash (customer_id);
create table shop_orderline (id int, customer_id bigint not null, order_id int, product text, quantity int,
    primary key (customer_id, id)) partition by hash (customer_id);
create table django_session (session_key text, session_data text, expire_date timestamp,
    customer_id bigint not null) partition by hash (customer_id);
create table django_content_type (id int primary key, app_label text, model text);

-- Rails
create table accounts (id bigint not null, name text, plan text, created_at timestamp, updated_at timestamp,
    primary key (id)) partition by hash (id);
create table posts (account_id bigint not null, id int, title text, body text, published boolean,
    comments_count int, created_at timestamp, updated_at timestamp, primary key (account_id, id))
    partition by hash (account_id);
create table comments (account_id bigint not null, id int, post_id int, body text, created_at timestamp,
    updated_at timestamp, primary key (account_id, id)) partition by hash (account_id);
create table taggings (account_id bigint not null, id int, post_id int, tag_id int, primary key (account_id, id))
    partition by hash (account_id);
create table tags (id int primary key, name text);

-- SQLAlchemy
create table tenant (id bigint not null, name text, primary key (id)) partition by hash (id);
create table project (id int, tenant_id bigint not null, name text, archived boolean, primary key (tenant_id, id))
    partition by hash (tenant_id);
create table task (id int, tenant_id bigint not null, project_id int, title text, done boolean, due date,
    version_id int, primary key (tenant_id, id)) partition by hash (tenant_id);
create table label (id int primary key, name text);

-- Hibernate
create table clinic (id bigint not null, name text, version int, primary key (id)) partition by hash (id);
create table patient (id int, clinic_id bigint not null, name text, born date, version int,
    primary key (clinic_id, id)) partition by hash (clinic_id);
create table visit (id int, clinic_id bigint not null, patient_id int, day date, drug_id int, version int,
    primary key (clinic_id, id)) partition by hash (clinic_id);
create table drug (id int primary key, name text);
create sequence hibernate_sequence;
