-- What conversations may rely on; created once, as a superuser, in the database where the user `test` plays them.
do $$ begin
    if not exists (select from pg_roles where rolname = 'play_role') then create role play_role; end if;
end $$;
grant play_role to test;
drop schema if exists play cascade;
create schema play;
create table play.items (id int primary key, name text, price numeric(8, 2) default 1.5);
create table play.notes (id serial primary key, body text not null);
create sequence play.counter;
create function play.fail_at(id int, bad int) returns int language plpgsql volatile as
    $$ begin if id = bad then raise exception 'row % is bad', id using errcode = 'P0042', hint = 'choose another'; end if; return id; end $$;
create function play.set_path(path text) returns void language sql as $$ select set_config('search_path', path, false) $$;
create procedure play.commits(rows int) language plpgsql as
    $$ begin for i in 1..rows loop insert into play.notes (body) values (i::text); commit; end loop; end $$;
grant all on schema play to public;
grant all on all tables in schema play to public;
grant all on all sequences in schema play to public;
